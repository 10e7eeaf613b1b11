/**
 * The binding of the host and of CUDA devices: its types, and the one that is registered.
 *
 * A call is its numbers and its operands, as slots.ts lists them. The binding checks every number, size, type, alignment and
 * byte length: a mistake in lib/ becomes an error and never an access out of bounds.
 */
import { LilyError } from '../base/errors.js'

declare const kind: unique symbol

/** An object of a device that the addon holds. It is released when it is garbage collected. */
export interface Handle<Kind extends string> {
  readonly [kind]: Kind
}
export type MemoryHandle = Handle<'memory'>
export type StreamHandle = Handle<'stream'>
export type EventHandle = Handle<'event'>
export type GraphHandle = Handle<'graph'>
/** Device memory of another addon. It is given back when the handle is garbage collected. */
export type ImportedHandle = Handle<'imported'>

/**
 * Memory of an operand: a view of host memory, device memory of the package, an address of CUDA, a buffer of a
 * GPUDevice, or null for no operand.
 */
export type Memory = ArrayBufferView | MemoryHandle | bigint | GPUBuffer | null

/** Statistics of one memory pool: blocks in use by calls and tensors, and free blocks cached for later ones. */
export interface PoolStats {
  /** Bytes of blocks in use. Sizes of blocks are rounded up. */
  readonly bytesInUse: number
  /** Bytes of free blocks; {@link emptyCache} frees them. */
  readonly bytesCached: number
  /** Largest value of `bytesInUse` in the life of the process. */
  readonly peakBytesInUse: number
  /** Number of blocks in use. */
  readonly blocksInUse: number
  /** Number of free blocks. */
  readonly blocksCached: number
  /** Number of allocations from the system or the driver. Constant while the pool serves all calls. */
  readonly allocations: number
}

export interface NativeDevice {
  id: number
  name: string
  /** Instruction set of a CPU, compute capability of a GPU. */
  detail: string
  /** What the kernels no longer use after wrong results; '': nothing. */
  without: string
  memoryBytes: number
  cacheBytes: number
  /** Threads of the CPU backend, multiprocessors of a GPU. */
  parallelism: number
}

export interface NativeBackend {
  name: 'cpu' | 'cuda'
  available: boolean
  /** Why it is not available; of the cpu backend on WebAssembly: why that is used. */
  reason?: string
  devices: NativeDevice[]
}

/** What the cpu backend has detected of the processor. */
export interface NativeProcessor {
  /** The instruction sets that the backend has kernels for, narrowest first, separated by spaces. */
  readonly instructionSets: string
  /** Processors that this process may run on. */
  readonly affinity: number
  /** Whole processors of the cgroup's quota; 0 without a quota. */
  readonly quota: number
  /** Cores of the processors that this process may run on; 0: unknown. */
  readonly physicalCores: number
  /** Why the operating system refused the tile registers of AMX that the set in use needs; otherwise empty. */
  readonly amxRefusal: string
}

/** The tensor of a capsule, with the codes of dlpack.h. */
export interface DLPackTensor {
  readonly deviceType: number
  readonly deviceId: number
  readonly code: number
  readonly bits: number
  readonly lanes: number
  readonly isReadOnly: boolean
  readonly shape: number[]
  /** Null: contiguous. */
  readonly strides: number[] | null
  /** Address of the first element. */
  readonly address: bigint
}

/** A library of MPI that is open. */
export interface MpiLibrary {
  /** As it was opened. */
  readonly name: string
  /** The first line of MPI_Get_library_version. */
  readonly version: string
  /** Whose handles it has; MPICH also stands for its derivatives. */
  readonly implementation: 'Open MPI' | 'MPICH' | 'MPI ABI'
}

/**
 * MPI, for one environment of the process: the first that calls init(). All other functions but open() belong to that
 * environment. One thread of the addon calls MPI, in the order of the calls here; a pending promise keeps the process
 * running.
 *
 * `label` names an operation where a time-out is reported, such as 'averageGradients()'. `key`, at most 120 bytes in
 * UTF-8, is compared between ranks, as are the operation and the lengths and types of its arrays. If they differ, the
 * promise resolves with the keys of all ranks in order, on all of them, and nothing has been written.
 *
 * A time-out and an error of MPI write a line to stderr and end the job with a code other than 0. So does the end of the
 * environment without finalize().
 */
export interface NativeMpi {
  /**
   * Opens the first MPI library among the candidates; a second call returns the open one. Throws if there is none: the message
   * has a line for each candidate.
   */
  open(candidates: readonly string[]): MpiLibrary
  /** `timeout`, in milliseconds, applies to every operation. A process calls this once. */
  init(timeout: number): Promise<{ rank: number; size: number }>
  barrier(label: string, key: string): Promise<string[] | null>
  /** Gathers the bytes of all ranks. */
  gather(label: string, key: string, bytes: Uint8Array): Promise<Uint8Array[] | string[]>
  /** Copies the arrays of rank 0 to all other ranks. */
  broadcast(label: string, key: string, arrays: readonly ArrayBufferView[]): Promise<string[] | null>
  /**
   * Replaces the arrays by sum_r c_r array_r, added in the order of ranks in float32 and rounded once: c_r is the weight
   * of rank r divided by the sum of all weights, or 1 if the weights are NaN. An array of a rank with weight 0 may
   * contain any numbers. Rejects on all ranks if all weights are 0.
   *
   * @param dtypes codes of slots.ts, one for each array
   * @param bucketBytes about how many bytes are under way at once
   */
  reduce(
    label: string,
    key: string,
    arrays: readonly ArrayBufferView[],
    dtypes: readonly number[],
    weight: number,
    bucketBytes: number,
  ): Promise<string[] | null>
  /** Ends the use of MPI, after a barrier. */
  finalize(label: string, key: string): Promise<string[] | null>
  /** Writes a line to stderr and ends the job and this process, whatever is under way. */
  abort(text: string, code: number): never
}

/**
 * Errors carry `code`, one of the ERR_LILY_ codes, and `cudaError`, the name of the error, if it is an error of CUDA.
 */
export interface Native {
  /** The text of the lists of slots.ts. */
  readonly signature: string
  /**
   * Runs a call of `operation`: the numbers of its fields, of the items of its list and of its operands, then the operands,
   * slot by slot. An operand whose access is `none` is not read.
   */
  run(numbers: Float64Array, ...operands: Memory[]): void
  /**
   * Checks a call and finds memory for its workspace, which stays in the pool: the call does not fail for lack of memory if it
   * runs before others take more.
   */
  reserve(numbers: Float64Array, ...operands: Memory[]): void
  /** The same as run on another thread, for forward, backward and linear on the host. */
  runAsync(numbers: Float64Array, ...operands: Memory[]): Promise<void>
  /** The size of the packed form of the weight of such a call of `pack`, whose `packed` is not read; 0 if there is none. */
  packedBytes(numbers: Float64Array, ...operands: Memory[]): number
  /**
   * The best rate of a roof, by its number in slots.ts, with all threads: FLOP/s of multiply-adds, or bytes/s of
   * reading, or of updating in place, a buffer of `byteLength`. It takes milliseconds and serves benchmarks.
   */
  measureRoof(backend: number, device: number, roof: number, byteLength: number): number
  /**
   * Locks an open file or folder until its descriptor is closed. It does not wait: false means that another open file
   * holds the lock. Null: the file system has no locks.
   */
  fileLock(fd: number, exclusive: boolean): boolean | null
  /** Address of the first element of a typed array. */
  hostAddress(array: ArrayBufferView): number
  /**
   * Places a block in `memory`, which is 64 bytes larger, at a multiple of 64 bytes, and zeroes the rest. The contents of
   * the block stay undefined. The pages of a large one are to be huge.
   *
   * @returns the offset of the block
   */
  placeHostBlock(memory: Uint8Array, byteLength: number): number
  // Float64 on the CPU, on the calling thread and the thread pool; lib/analysis/spectrum.ts describes them.
  gramFactor(x: Float64Array, r: number, columns: number, l: Float64Array): void
  congruenceEigenvalues(l: Float64Array, x: Float64Array, r: number, columns: number, values: Float64Array): void
  backends(): NativeBackend[]
  processor(): NativeProcessor

  // CUDA devices. `device` is a number, `stream` a CUDA handle as a number. The functions enqueue work and return
  // before it is done; a promise resolves when it is done.
  /** Memory of the stream's device, which belongs to that stream. */
  memoryAllocate(byteLength: number, stream: StreamHandle): MemoryHandle
  memoryAddress(memory: MemoryHandle): bigint
  /** Returns the memory to the pool. A second call does nothing. */
  memoryRelease(memory: MemoryHandle): void
  /** Throws unless an address and all of its bytes are memory of the device. */
  checkPointer(device: number, address: bigint, byteLength: number, argument: string): void
  /** `data` has been read when the function returns. */
  upload(device: number, memory: Memory, byteOffset: number, data: ArrayBufferView, stream: number): void
  download(device: number, memory: Memory, byteOffset: number, data: ArrayBufferView, stream: number): Promise<void>
  copy(
    device: number,
    memory: Memory,
    byteOffset: number,
    sourceDevice: number,
    source: Memory,
    sourceOffset: number,
    byteLength: number,
    stream: number,
  ): void
  fill(device: number, memory: Memory, byteOffset: number, byteLength: number, value: number, stream: number): void
  /** The stream in which calls on a device run by default; the package creates it. */
  streamDefault(device: number): StreamHandle
  streamCreate(device: number): StreamHandle
  streamHandle(stream: StreamHandle): number
  /** Its memory and its queued work pass to the default stream of its device, in order. */
  streamDestroy(stream: StreamHandle): void
  /** Later work of `then` runs after the work queued in `first` so far. */
  streamOrder(device: number, first: number, thenDevice: number, then: number): void
  streamWait(device: number, stream: number): Promise<void>
  streamWaitEvent(device: number, stream: number, event: EventHandle): void
  eventCreate(device: number): EventHandle
  eventDestroy(event: EventHandle): void
  eventRecord(event: EventHandle, stream: number): void
  eventQuery(event: EventHandle): boolean
  eventWait(event: EventHandle): Promise<void>
  /** Milliseconds. */
  eventElapsed(start: EventHandle, end: EventHandle): number
  /** Between captureBegin and captureEnd the stream records its work into a graph instead of running it. */
  captureBegin(stream: StreamHandle): void
  captureEnd(stream: StreamHandle): GraphHandle
  graphLaunch(graph: GraphHandle, stream: number): void
  graphDestroy(graph: GraphHandle): void

  // DLPack. A capsule is an External of Node-API with the type tag of docs/interop.md.
  /**
   * The descriptor holds backend, device, byte offset, type code, bits and whether the memory is read-only, then the sizes
   * and the strides. `release` is called on the event loop once the consumer of the tensor has given it back.
   */
  dlpackExport(descriptor: Float64Array, memory: Memory, release: () => void): object
  /** Describes the tensor of a capsule. A tensor of another major version is given back to its producer. */
  dlpackRead(capsule: unknown): DLPackTensor
  /** Takes the tensor out of a capsule; on the host, an ArrayBuffer over its elements. */
  dlpackTake(capsule: unknown): ArrayBuffer | ImportedHandle
  poolStatistics(backend: number, device: number, pinned: boolean): PoolStats
  emptyCache(): void
  /** Undefined where there is no MPI: on Windows and in WebAssembly. */
  readonly mpi?: NativeMpi
}

/** What a device does besides calls: the addon for CUDA devices, lib/webgpu/binding.ts for a GPUDevice. */
export type DeviceBinding = Pick<
  Native,
  | 'memoryAllocate'
  | 'memoryRelease'
  | 'upload'
  | 'download'
  | 'copy'
  | 'fill'
  | 'streamDefault'
  | 'streamHandle'
  | 'streamOrder'
  | 'streamWait'
  | 'poolStatistics'
  | 'emptyCache'
>

/** The addon, or its counterpart in WebAssembly. */
export interface Binding extends Omit<Native, 'placeHostBlock'> {
  /**
   * Allocates memory for operands at a multiple of 64 bytes; its contents are undefined. Of WebAssembly it is a block of
   * its own memory, which calls need not copy: an offset in a SharedArrayBuffer, released when the buffer is
   * garbage-collected. Null: a typed array serves as well, or there is no such memory left.
   */
  allocateHost?(byteLength: number): { readonly buffer: ArrayBufferLike; readonly byteOffset: number } | null
  /** Whether calls work on copies of operands outside its own memory, as those of WebAssembly must. */
  readonly copiesOperands?: boolean
}

const NOT_IMPORTED = 'lily-kernels/webgpu has no native code; import lily-kernels besides'

/** Without the main package nothing runs on the host and on CUDA devices, and memory of the host is of JavaScript. */
const none: Partial<Binding> = {
  backends: () =>
    (['cpu', 'cuda'] as const).map((name) => ({ name, available: false, reason: NOT_IMPORTED, devices: [] })),
  emptyCache: () => undefined,
  allocateHost: undefined,
}

/** The binding of the process; one that refuses calls until {@link register} is called. */
export let native = new Proxy(none, {
  get: (target, name) => {
    if (name in target) return target[name as keyof Binding]
    throw new LilyError('ERR_LILY_BACKEND_UNAVAILABLE', `the host and CUDA devices are not available: ${NOT_IMPORTED}`)
  },
}) as Binding

/** Whether the process has a binding. */
export let isRegistered = false

/** Sets the binding of the process. The entries of the main package call this, and lily-kernels/webgpu does not. */
export function register(binding: Binding): void {
  native = binding
  isRegistered = true
}
