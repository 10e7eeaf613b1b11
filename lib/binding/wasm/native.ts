/**
 * The binding of the cpu backend in WebAssembly: what the addon is elsewhere. The module has the same reader of calls.
 */
import { classNameOf } from '../../base/views.js'
import type { Binding, NativeBackend } from '../native.js'
import { backend, signature, status } from '../slots.js'
import { Calls } from './calls.js'
import { bindingError } from './errors.js'
import type { Host } from './host.js'
import type { Module } from './module.js'
import type { Copied } from './operands.js'
import { Residents } from './residents.js'

/** Start of each SharedArrayBuffer outside the module's memory, in numbers that are no addresses of the module. */
const OTHERS_BEGIN = 2 ** 40
const OTHERS_STEP = 2 ** 36

/** Larger than any cache, and small enough to allocate. */
const MAX_ROOF_BYTES = 2 ** 31

const NO_CUDA = 'the cuda backend requires the native addon, and this process runs on WebAssembly'

export interface WasmNative extends Binding {
  /** What calls have copied so far, for tests. */
  readonly copied: Readonly<Copied>
}

/**
 * @param module the module, which this binding owns
 * @param reason why WebAssembly runs
 */
export function wasmNative(module: Module, host: Host, reason: string): WasmNative {
  const residents = new Residents(module)
  const calls = new Calls(module, residents)
  return {
    signature,
    copied: calls.copied,
    copiesOperands: true,
    allocateHost: (byteLength) => residents.allocate(byteLength),
    run(numbers, ...memory) {
      calls.run(numbers, memory)
    },
    reserve: (numbers, ...memory) => {
      calls.reserve(numbers, memory)
    },
    runAsync: (numbers, ...memory) => calls.runAsync(numbers, memory),
    packedBytes: (numbers, ...memory) => calls.packedBytes(numbers, memory),
    ...analyses(module),
    measureRoof: (...args) => measureRoof(module, ...args),
    fileLock: () => null,
    hostAddress: hostAddresses(residents),
    backends: () => [
      describeCpu(module, host, reason),
      { name: 'cuda', available: false, reason: NO_CUDA, devices: [] },
    ],
    processor: () => ({
      instructionSets: module.build,
      affinity: host.processors,
      quota: 0,
      physicalCores: 0,
      amxRefusal: '',
    }),
    poolStatistics: (of) => (of === backend.cpu ? calls.workspace.statistics() : refuseCuda()),
    emptyCache() {
      calls.workspace.release()
    },
    ...functionsOfDevices,
    ...functionsOfDLPack(reason),
  }
}

type Functions<Name extends keyof Binding> = Pick<Binding, Name>

/** The most that native/core/problem.h allows. */
const MAX_RANK = 4096
const MAX_DIMENSION = 2 ** 40

function whole(name: string, value: number, least: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value
  throw bindingError('ERR_LILY_ARGUMENT', `${name} must be a whole number from ${least} to ${most}`)
}

function analyses(module: Module): Functions<'gramFactor' | 'congruenceEigenvalues'> {
  /** Runs a function on float64 matrices; it writes the last one. */
  const analysis = (
    matrices: readonly (readonly [Float64Array, length: number])[],
    work: (addresses: number[]) => number,
  ): void => {
    const addresses: number[] = []
    try {
      for (const [matrix, length] of matrices) {
        if (classNameOf(matrix) !== 'Float64Array' || !(matrix.byteLength >= 8 * length)) {
          const bytes = 8 * length
          throw bindingError(
            'ERR_LILY_ARGUMENT',
            `a matrix must be a typed array of at least ${bytes} bytes, aligned to 8`,
          )
        }
        const address = module.allocate('a matrix', 8 * length)
        addresses.push(address)
        new Float64Array(module.memory.buffer, address, length).set(matrix.subarray(0, length))
      }
      module.startThreads()
      module.check(work(addresses))
      const [result, length] = matrices[matrices.length - 1]
      result.set(new Float64Array(module.memory.buffer, addresses[addresses.length - 1], length))
    } finally {
      for (const address of addresses) module.release(address)
    }
  }
  const checkSizes = (r: number, columns: number) => {
    whole('the size of a matrix', r, 1, MAX_RANK)
    whole('the size of a matrix', columns, 1, MAX_DIMENSION)
  }
  return {
    gramFactor(x, r, columns, l) {
      checkSizes(r, columns)
      const matrices = [[x, r * columns] as const, [l, r * r] as const]
      analysis(matrices, ([from, to]) => module.exports.lily_cpu_gram_factor(from, BigInt(r), BigInt(columns), to))
    },
    congruenceEigenvalues(l, x, r, columns, values) {
      checkSizes(r, columns)
      const matrices = [[l, r * r] as const, [x, r * columns] as const, [values, r] as const]
      analysis(matrices, ([left, right, to]) =>
        module.exports.lily_cpu_congruence_eigenvalues(left, right, BigInt(r), BigInt(columns), to),
      )
    },
  }
}

function measureRoof(module: Module, of: number, device: number, roof: number, byteLength: number): number {
  if (of !== backend.cpu || device !== 0) {
    throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', 'on WebAssembly there is only the cpu backend, with device 0')
  }
  const bytes = whole('byteLength', byteLength, 0, MAX_ROOF_BYTES)
  module.startThreads()
  module.check(module.exports.lily_wasm_measure_roof(whole('roof', roof, 0, 2 ** 31 - 1), bytes, module.scratch))
  return module.view.getFloat64(module.scratch, true)
}

function hostAddresses(residents: Residents): Binding['hostAddress'] {
  const others = new WeakMap<ArrayBufferLike, number>()
  let otherCount = 0
  return (array) => {
    const { buffer, byteOffset } = array
    if (residents.has(buffer)) return byteOffset
    let begin = others.get(buffer)
    if (begin === undefined) others.set(buffer, (begin = OTHERS_BEGIN + otherCount++ * OTHERS_STEP))
    return begin + byteOffset
  }
}

function describeCpu(module: Module, host: Host, reason: string): NativeBackend {
  const isAvailable = module.exports.lily_wasm_ready() === status.ok
  const device = {
    id: 0,
    name: host.processorName ?? 'WebAssembly',
    detail: module.build,
    without: '',
    memoryBytes: 0,
    cacheBytes: 0,
    parallelism: module.threads,
  }
  return {
    name: 'cpu',
    available: isAvailable,
    reason: isAvailable ? reason : module.lastError(),
    devices: isAvailable ? [device] : [],
  }
}

function refuseCuda(): never {
  throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', NO_CUDA)
}

const functionsOfDevices = {
  memoryAllocate: refuseCuda,
  memoryAddress: refuseCuda,
  memoryRelease: refuseCuda,
  checkPointer: refuseCuda,
  upload: refuseCuda,
  download: refuseCuda,
  copy: refuseCuda,
  fill: refuseCuda,
  streamDefault: refuseCuda,
  streamCreate: refuseCuda,
  streamHandle: refuseCuda,
  streamDestroy: refuseCuda,
  streamOrder: refuseCuda,
  streamWait: refuseCuda,
  streamWaitEvent: refuseCuda,
  eventCreate: refuseCuda,
  eventDestroy: refuseCuda,
  eventRecord: refuseCuda,
  eventQuery: refuseCuda,
  eventWait: refuseCuda,
  eventElapsed: refuseCuda,
  captureBegin: refuseCuda,
  captureEnd: refuseCuda,
  graphLaunch: refuseCuda,
  graphDestroy: refuseCuda,
} satisfies Partial<Binding>

function functionsOfDLPack(reason: string): Functions<'dlpackExport' | 'dlpackRead' | 'dlpackTake'> {
  const refuse = (): never => {
    throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', `DLPack requires the native addon: ${reason}`)
  }
  return { dlpackExport: refuse, dlpackRead: refuse, dlpackTake: refuse }
}
