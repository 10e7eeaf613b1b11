/**
 * The binding of a GPUDevice: what the addon is for CUDA. It encodes the kernels of calls, and submits them to the queue of
 * the device, or leaves that to the caller whose encoder it was given.
 */
import { fail, LilyError, messageOf } from '../base/errors.js'
import { isFixed } from '../base/views.js'
import { webGpu, type WebGpuBinding } from '../binding/devices.js'
import type { GpuWork } from '../binding/gpu-call.js'
import type { Memory, MemoryHandle, PoolStats, StreamHandle } from '../binding/native.js'
import { ByteCopies } from './bytes.js'
import { type Allocate, GpuKernels } from './kernels.js'
import { type Block, BufferPool } from './pool.js'
import { MAP_READ, usage } from './usage.js'

/** Memory of the package: the object behind a `MemoryHandle`. */
class Allocation {
  isReleased = false

  constructor(readonly block: Block) {}
}

/** Encodes work into an encoder. */
type Encode = (encoder: GPUCommandEncoder, allocate: Allocate) => void

export class GpuBinding implements WebGpuBinding {
  readonly device: WebGpuBinding['device']
  #users = 0
  #kernels: GpuKernels
  readonly #pool: BufferPool
  readonly #copies: ByteCopies
  /** The pool's blocks by buffer. Callers may also pass these buffers as operands. */
  readonly #blocks = new WeakMap<GPUBuffer, Block>()
  readonly #collected = new FinalizationRegistry<Block>((block) => {
    this.#pool.give(block)
  })
  /** The blocks that commands of the caller's encoders use, pinned. It is unknown when the caller submits them. */
  readonly #encoded = new WeakMap<GPUCommandEncoder, Set<Block>>()
  /** Why nothing runs any more: the GPUDevice is lost, or its last createLily object is disposed of. */
  #end: LilyError | null = null
  /** Rejects the promises that wait for the GPUDevice. A race with one promise would keep every other one for good. */
  readonly #waiting = new Set<(end: LilyError) => void>()
  /** What WebGPU has reported of earlier calls: the next promise rejects with it. */
  #failure: LilyError | null = null
  readonly #reports = new Set<Promise<void>>()

  constructor(readonly gpu: GPUDevice) {
    this.device = Object.freeze({ type: 'webgpu', id: webGpu.nextId++ })
    this.#kernels = new GpuKernels(gpu)
    this.#copies = new ByteCopies(gpu)
    const { storage, copySource, copyDestination, uniform } = usage
    this.#pool = new BufferPool(gpu.limits.maxBufferSize, (byteLength) =>
      this.#createBuffer(byteLength, storage | copySource | copyDestination | uniform),
    )
    void gpu.lost.then(({ message }) => {
      this.#finish(
        new LilyError(
          'ERR_LILY_DEVICE',
          `the GPUDevice of webgpu:${this.device.id} was lost${message === '' ? '' : ` (${message})`}, and with it all ` +
            'memory on it; request a new GPUDevice, call createLily with it, and load the last checkpoint',
        ),
      )
    })
  }

  retain(): void {
    this.#users++
    webGpu.bindings.set(this.device.id, this)
  }

  release(): void {
    if (--this.#users > 0) return
    webGpu.bindings.delete(this.device.id)
    this.#pool.close()
    // The GPUDevice, whose loss is awaited, keeps this object; it must not also keep the pipelines.
    this.#kernels = new GpuKernels(this.gpu)
    this.#finish(
      new LilyError(
        'ERR_LILY_DISPOSED',
        `the createLily objects of webgpu:${this.device.id} are disposed of; await their promises before the last dispose()`,
      ),
    )
  }

  #finish(end: LilyError): void {
    this.#end ??= end
    for (const reject of this.#waiting) reject(this.#end)
  }

  // Calls.

  run(work: readonly GpuWork[], encoder: GPUCommandEncoder | null): void {
    this.#run(encoder, work, (commands, allocate) => {
      this.#kernels.encode(work, commands, allocate)
    })
  }

  runAsync(work: readonly GpuWork[]): Promise<void> {
    this.#checkEnd()
    return this.#runCompiled(work, this.#kernels.compile(work))
  }

  async #runCompiled(work: readonly GpuWork[], compiled: Promise<unknown>): Promise<void> {
    // Its operands may be disposed of while the pipelines compile; their memory waits.
    const blocks = this.#blocksOf(work)
    for (const block of blocks) this.#pool.pin(block)
    try {
      await this.#settled(compiled)
      await this.#checked(() => {
        this.#encode(null, work, (commands, allocate) => {
          this.#kernels.encode(work, commands, allocate)
        })
      })
    } finally {
      for (const block of blocks) this.#pool.unpin(block)
    }
  }

  // Memory.

  memoryAllocate(byteLength: number, _stream: StreamHandle): MemoryHandle {
    this.#checkEnd()
    const block = this.#take(byteLength)
    const allocation = new Allocation(block)
    this.#collected.register(allocation, block, allocation)
    return allocation as unknown as MemoryHandle
  }

  #take(byteLength: number): Block {
    const block = this.#pool.take(byteLength)
    this.#blocks.set(block.buffer, block)
    return block
  }

  memoryRelease(memory: MemoryHandle): void {
    const allocation = memory as unknown as Allocation
    if (allocation.isReleased) return
    allocation.isReleased = true
    this.#collected.unregister(allocation)
    this.#pool.give(allocation.block)
  }

  bufferOf(memory: Memory): GPUBuffer {
    return memory instanceof Allocation ? memory.block.buffer : (memory as GPUBuffer)
  }

  checkBuffer({ size, mapState }: GPUBuffer, byteOffset: number, byteLength: number, argument: string): void {
    if (mapState !== 'unmapped') {
      fail('ERR_LILY_ARGUMENT', argument, `its GPUBuffer is mapped (mapState '${mapState}'); call its unmap() first`)
    }
    // Kernels access whole words of 32 bits.
    const usable = size - (size % 4)
    if (byteOffset + byteLength <= usable) return
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected a GPUBuffer of at least ${Math.ceil((byteOffset + byteLength) / 4) * 4} bytes, a multiple of 4, for its ` +
        `shape and byteOffset, got ${size}; pass a longer buffer or a smaller shape`,
    )
  }

  upload(_device: number, memory: Memory, byteOffset: number, data: ArrayBufferView): void {
    this.#checkEnd()
    let bytes = data as Uint8Array<ArrayBuffer>
    const { buffer, byteLength } = bytes
    // WebGPU writes whole words, with which blocks of the pool end; trailing bytes are unused. Dawn for
    // Node.js crashes where the memory of the data is shared, as in WebAssembly, and browsers refuse a buffer that
    // can be resized.
    if (byteLength % 4 !== 0 || !isFixed(buffer)) {
      bytes = new Uint8Array(Math.ceil(byteLength / 4) * 4)
      bytes.set(data as Uint8Array)
    }
    this.#reporting(() => {
      this.gpu.queue.writeBuffer(this.bufferOf(memory), byteOffset, bytes)
    })
  }

  async download(_device: number, memory: Memory, byteOffset: number, data: ArrayBufferView): Promise<void> {
    this.#checkEnd()
    const bytes = data as Uint8Array
    if (bytes.byteLength === 0) {
      await this.streamWait()
      return
    }
    const source = this.bufferOf(memory)
    const isPlain = (source.usage & usage.copySource) !== 0
    // The words that contain the bytes, unless the kernel has to copy them.
    const begin = isPlain ? byteOffset - (byteOffset % 4) : byteOffset
    const length = Math.ceil((byteOffset - begin + bytes.byteLength) / 4) * 4
    const staging = this.#createBuffer(length, usage.mapRead | usage.copyDestination)
    try {
      await this.#checked(() => {
        this.#encode(null, {}, (encoder, allocate) => {
          if (isPlain) {
            encoder.copyBufferToBuffer(source, begin, staging, 0, length)
            return
          }
          const copy = allocate(length)
          const to = { buffer: copy, byteOffset: 0 }
          this.#copies.copy(encoder, to, { buffer: source, byteOffset }, bytes.byteLength, allocate)
          encoder.copyBufferToBuffer(copy, 0, staging, 0, length)
        })
        return staging.mapAsync(MAP_READ)
      })
      bytes.set(new Uint8Array(staging.getMappedRange(), byteOffset - begin, bytes.byteLength))
    } finally {
      staging.destroy()
    }
  }

  copy(
    _device: number,
    memory: Memory,
    byteOffset: number,
    _sourceDevice: number,
    source: Memory,
    sourceOffset: number,
    byteLength: number,
  ): void {
    const to = { buffer: this.bufferOf(memory), byteOffset }
    const from = { buffer: this.bufferOf(source), byteOffset: sourceOffset }
    this.#run(null, {}, (encoder, allocate) => {
      this.#copies.copy(encoder, to, from, byteLength, allocate)
    })
  }

  fill(_device: number, memory: Memory, byteOffset: number, byteLength: number): void {
    const buffer = this.bufferOf(memory)
    this.#run(null, {}, (encoder, allocate) => {
      this.#copies.copy(encoder, { buffer, byteOffset }, null, byteLength, allocate)
    })
  }

  poolStatistics(): PoolStats {
    return this.#pool.statistics
  }

  emptyCache(): void {
    this.#pool.empty()
  }

  // The queue, and the caller's encoders.

  streamDefault(): StreamHandle {
    return this as unknown as StreamHandle
  }

  /** There is one queue. */
  streamHandle(): number {
    return 1
  }

  /** The queue is the only stream that runs commands, in the order in which they are submitted. */
  streamOrder(): void {
    // Nothing is out of order.
  }

  async streamWait(): Promise<void> {
    this.#checkEnd()
    await this.#settled(this.gpu.queue.onSubmittedWorkDone().then(() => this.#reported()))
  }

  submitted(encoder: GPUCommandEncoder): void {
    for (const block of this.#encoded.get(encoder) ?? []) this.#pool.unpin(block)
    this.#encoded.delete(encoder)
  }

  checkUsable(argument: string): void {
    const end = this.#end
    if (end !== null) fail(end.code, argument, end.message)
  }

  /** {@link #encode} for calls that no promise of their own reports. */
  #run(given: GPUCommandEncoder | null, call: object, encode: Encode): void {
    this.#reporting(() => {
      this.#encode(given, call, encode)
    })
  }

  /**
   * Keeps what WebGPU reports of commands for the next promise. Commands on buffers without memory are also invalid: the owner
   * of the GPUDevice would get an uncaptured error for each of them.
   */
  #reporting(run: () => void): void {
    this.gpu.pushErrorScope('validation')
    try {
      run()
    } finally {
      this.#report(this.gpu.popErrorScope(), refused)
    }
  }

  /** Encodes work and submits it, or leaves that to the caller whose encoder is given. `call` has the operands. */
  #encode(given: GPUCommandEncoder | null, call: object, encode: Encode): void {
    this.#checkEnd()
    const encoder = given ?? this.gpu.createCommandEncoder()
    const workspace: Block[] = []
    const allocate = (byteLength: number): GPUBuffer => {
      const block = this.#take(byteLength)
      workspace.push(block)
      return block.buffer
    }
    try {
      encode(encoder, allocate)
      if (given === null) this.gpu.queue.submit([encoder.finish()])
    } finally {
      if (given !== null) {
        const blocks = this.#encoded.get(given) ?? new Set()
        this.#encoded.set(given, blocks)
        for (const block of [...workspace, ...this.#blocksOf(call)]) {
          if (!blocks.has(block)) this.#pool.pin(block)
          blocks.add(block)
        }
      }
      for (const block of workspace) this.#pool.give(block)
    }
  }

  /** The blocks of the operands of a call; a block of several operands occurs more than once. */
  #blocksOf(call: object): Block[] {
    return buffersOf(call).flatMap((buffer) => this.#blocks.get(buffer) ?? [])
  }

  /** Runs commands, and rejects with what WebGPU reports of them or, if there is such a report, of earlier calls. */
  async #checked(run: () => unknown): Promise<void> {
    const { gpu } = this
    for (const filter of ['validation', 'out-of-memory'] as const) gpu.pushErrorScope(filter)
    const done = new Promise((resolve) => {
      resolve(run())
    })
    this.#report(gpu.popErrorScope(), outOfMemory)
    // Not by #report, which may tell a call that waits at the same time instead.
    const valid = gpu.popErrorScope().then((error) => {
      if (error !== null) throw refused(error.message)
    })
    await this.#settled(Promise.all([done, valid]).finally(() => this.#reported()))
  }

  #createBuffer(size: number, usage: GPUBufferUsageFlags): GPUBuffer {
    const { gpu } = this
    gpu.pushErrorScope('out-of-memory')
    const buffer = gpu.createBuffer({ label: 'lily-kernels', size, usage })
    this.#report(gpu.popErrorScope(), (message) => {
      // There is no memory behind the buffer, so nothing must get it again: it stays pinned, or it is in the cache.
      const block = this.#blocks.get(buffer)
      if (block !== undefined) this.#pool.pin(block)
      this.emptyCache()
      return outOfMemory(message)
    })
    return buffer
  }

  /** Keeps an error of a scope for the next promise. */
  #report(scope: Promise<GPUError | null>, toError: (message: string) => LilyError): void {
    const report = scope.then(
      (error) => {
        if (error === null) return
        // It runs for every error, also where an earlier one is reported: it withdraws the buffer.
        const failure = toError(error.message)
        this.#failure ??= failure
      },
      () => undefined, // the device is lost, which is reported as such
    )
    this.#reports.add(report)
    void report.finally(() => this.#reports.delete(report))
  }

  /** Throws what WebGPU has reported of earlier calls, once. */
  async #reported(): Promise<void> {
    await Promise.all(this.#reports)
    const failure = this.#failure
    this.#failure = null
    if (failure !== null) throw failure
  }

  /** Awaits a promise of WebGPU, which may never settle if the device is lost, unless nothing runs any more. */
  async #settled<T>(promise: Promise<T>): Promise<T> {
    try {
      const result = await this.#orEnded(promise)
      this.#checkEnd()
      return result
    } catch (cause) {
      this.#checkEnd()
      if (cause instanceof LilyError) throw cause
      // The promises of a lost device may reject before the promise of its loss resolves.
      await this.#orEnded(new Promise((resolve) => setTimeout(resolve, 50)))
      throw new LilyError(
        'ERR_LILY_DEVICE',
        `webgpu:${this.device.id}: WebGPU failed (${messageOf(cause)}); see cause`,
        {
          cause,
        },
      )
    }
  }

  async #orEnded<T>(promise: Promise<T>): Promise<T> {
    let rejected: (end: LilyError) => void = () => undefined
    const ended = new Promise<never>((_, reject) => {
      rejected = reject
    })
    this.#waiting.add(rejected)
    try {
      return await Promise.race([promise, ended])
    } finally {
      this.#waiting.delete(rejected)
    }
  }

  #checkEnd(): void {
    if (this.#end !== null) throw this.#end
  }
}

/** The buffers of all operands of a call. */
function buffersOf(call: object): GPUBuffer[] {
  return Object.values(call).flatMap((value: unknown) => {
    if (typeof value !== 'object' || value === null) return []
    if (!('buffer' in value)) return buffersOf(value)
    return value.buffer === null ? [] : [value.buffer as GPUBuffer]
  })
}

function outOfMemory(message: string): LilyError {
  return new LilyError(
    'ERR_LILY_OUT_OF_MEMORY',
    `an allocation of device memory failed (${message}); later results are invalid; dispose of unused tensors`,
  )
}

function refused(message: string): LilyError {
  return new LilyError(
    'ERR_LILY_ARGUMENT',
    `WebGPU refused a call (${message}); its operands must be buffers of this GPUDevice that are not destroyed`,
  )
}
