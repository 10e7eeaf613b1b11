/**
 * The binding of the cpu backend in WebAssembly: what the addon is elsewhere. It reads the same descriptors, checks the
 * same things, and calls the same C ABI.
 */
import { bufferOf, byteOffsetOf } from '../../base/views.js'
import { descriptor } from '../descriptor.js'
import type { Binding, NativeBackend } from '../native.js'
import * as abi from './abi.js'
import { prepareAdamW } from './adamw.js'
import { Calls } from './calls.js'
import { bindingError } from './errors.js'
import { prepareFold } from './fold.js'
import type { Host } from './host.js'
import type { Module } from './module.js'
import { type Copied, type Operands, whole } from './operands.js'
import { prepareBackward, prepareForward, prepareLinear, prepareWeight, query } from './prepare.js'
import { checkCpu, choice, CPU, MAX_DIMENSION, MAX_RANK, size } from './reader.js'
import { Residents } from './residents.js'

/** SharedArrayBuffers of others: where each of them begins, in numbers that are no addresses of the module. */
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
    descriptor: Object.fromEntries(Object.entries(descriptor).map(([name, fields]) => [name, Object.keys(fields)])),
    constants: {
      backend: { cpu: CPU, cuda: 1 },
      dtype: abi.dtype,
      routing: abi.routing,
      pool: abi.pool,
      activation: abi.activation,
      precision: abi.precision,
      roof: abi.roof,
    },
    copied: calls.copied,
    allocateHost: (byteLength) => residents.allocate(byteLength),
    ...operations(module, calls),
    ...analyses(module, calls),
    measureRoof: (backend, device, roof, byteLength) => measureRoof(module, backend, device, roof, byteLength),
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
    poolStatistics: (backend) => (backend === CPU ? calls.workspace.statistics() : refuseCuda()),
    emptyCache() {
      calls.workspace.release()
    },
    ...functionsOfDevices,
    ...functionsOfDLPack(reason),
  }
}

type Functions<Name extends keyof Binding> = Pick<Binding, Name>

function operations(
  module: Module,
  calls: Calls,
): Functions<
  | 'forward'
  | 'forwardAsync'
  | 'backward'
  | 'backwardAsync'
  | 'linear'
  | 'linearAsync'
  | 'linearPackedBytes'
  | 'linearPack'
  | 'fold'
  | 'adamw'
> {
  return {
    forward(numbers, ...memory) {
      calls.run((operands) => prepareForward(operands, numbers, memory))
    },
    forwardAsync: (numbers, ...memory) =>
      calls.runAsync((operands) => prepareForward(operands, numbers, memory), memory),
    backward(numbers, ...memory) {
      calls.run((operands) => prepareBackward(operands, numbers, memory))
    },
    backwardAsync: (numbers, ...memory) =>
      calls.runAsync((operands) => prepareBackward(operands, numbers, memory), memory),
    linear(numbers, ...memory) {
      calls.run((operands) => prepareLinear(operands, numbers, memory))
    },
    linearAsync: (numbers, ...memory) => calls.runAsync((operands) => prepareLinear(operands, numbers, memory), memory),
    linearPackedBytes: (numbers, ...memory) =>
      calls.withOperands((operands) => {
        // Its size is that of a weight in memory, so that nothing overflows.
        const { call } = prepareWeight(operands, numbers, memory, 'none')
        return query(module, 'linearPackedBytes', call + abi.linearStruct.problem)
      }),
    linearPack(numbers, ...memory) {
      calls.withOperands((operands) => {
        const { reader, call } = prepareWeight(operands, numbers, memory, 'read')
        const bytes = query(module, 'linearPackedBytes', call + abi.linearStruct.problem)
        const packed = reader.packed(call + abi.linearStruct.packed, bytes, 'write')
        module.check(module.call('linearPack', call, packed))
        operands.finish()
      })
    },
    fold(numbers, db, partials, weights) {
      calls.run((operands) => prepareFold(operands, numbers, db, partials, weights))
    },
    adamw(numbers, norm, skipped, arrays) {
      calls.run((operands) => prepareAdamW(operands, numbers, norm, skipped, arrays))
    },
  }
}

function analyses(module: Module, calls: Calls): Functions<'gramFactor' | 'congruenceEigenvalues'> {
  /** Runs a float64 function, whose matrices have sizes up to that of a rank. */
  const analysis = (r: number, columns: number, work: (operands: Operands) => number): void => {
    size('the size of a matrix', r, MAX_RANK)
    size('the size of a matrix', columns, MAX_DIMENSION)
    calls.withOperands((operands) => {
      module.startThreads()
      module.check(work(operands))
      operands.finish()
    })
  }
  return {
    gramFactor(x, r, columns, l) {
      analysis(r, columns, (operands) => {
        const from = operands.array('a matrix', x, 0, r * columns, 8, 'read')
        const to = operands.array('a matrix', l, 0, r * r, 8, 'write')
        return module.exports.lily_cpu_gram_factor(from, BigInt(r), BigInt(columns), to)
      })
    },
    congruenceEigenvalues(l, x, r, columns, values) {
      analysis(r, columns, (operands) => {
        const left = operands.array('a matrix', l, 0, r * r, 8, 'read')
        const right = operands.array('a matrix', x, 0, r * columns, 8, 'read')
        const to = operands.array('a matrix', values, 0, r, 8, 'write')
        return module.exports.lily_cpu_congruence_eigenvalues(left, right, BigInt(r), BigInt(columns), to)
      })
    },
  }
}

function measureRoof(module: Module, backend: number, device: number, roof: number, byteLength: number): number {
  checkCpu(backend, device)
  const which = whole('roof', roof)
  const bytes = whole('byteLength', byteLength)
  if (bytes < 0 || bytes > MAX_ROOF_BYTES) {
    throw bindingError('ERR_LILY_ARGUMENT', `byteLength must be from 0 to ${MAX_ROOF_BYTES}`)
  }
  module.startThreads()
  module.check(module.call('measureRoof', device, choice(which), bytes, module.scratch))
  return module.view.getFloat64(module.scratch, true)
}

function hostAddresses(residents: Residents): Binding['hostAddress'] {
  const others = new WeakMap<ArrayBufferLike, number>()
  let otherCount = 0
  return (array) => {
    const buffer = bufferOf(array)
    if (residents.has(buffer)) return byteOffsetOf(array)
    let begin = others.get(buffer)
    if (begin === undefined) others.set(buffer, (begin = OTHERS_BEGIN + otherCount++ * OTHERS_STEP))
    return begin + byteOffsetOf(array)
  }
}

function describeCpu(module: Module, host: Host, reason: string): NativeBackend {
  const isAvailable = module.call('deviceCount', module.scratch) === abi.status.ok
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
