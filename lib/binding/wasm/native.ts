/**
 * The binding of the cpu backend in WebAssembly: what the addon is elsewhere. It reads the same descriptors, checks the
 * same things, and calls the same C ABI.
 */
import { bufferOf, byteOffsetOf } from '../../base/views.js'
import { descriptor } from '../descriptor.js'
import type { Binding, Memory, NativeBackend, PoolStatistics } from '../native.js'
import * as abi from './abi.js'
import { prepareAdamW } from './adamw.js'
import { bindingError } from './errors.js'
import { prepareFold } from './fold.js'
import type { Host } from './host.js'
import type { Module } from './module.js'
import { type Copied, Operands, whole } from './operands.js'
import { prepareBackward, type Prepared, prepareForward, prepareLinear, prepareWeight, query } from './prepare.js'
import { checkCpu, choice, CPU, MAX_DIMENSION, MAX_RANK, size } from './reader.js'
import { Residents } from './residents.js'

/** SharedArrayBuffers of others: where each of them begins, in numbers that are no addresses of the module. */
const OTHERS_BEGIN = 2 ** 40
const OTHERS_STEP = 2 ** 36

/** Larger than any cache, and small enough to allocate. */
const MAX_ROOF_BYTES = 2 ** 31

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
  const copied: Copied = { in: 0, out: 0 }
  const mainWorkspace = new Workspace(module)
  const others = new WeakMap<ArrayBufferLike, number>()
  let otherCount = 0

  /** Prepares a call, runs it and copies its outputs back. */
  function run(prepare: (operands: Operands) => Prepared): void {
    const operands = new Operands(module, residents, copied)
    try {
      const prepared = prepare(operands)
      giveWorkspace(operands, prepared, (bytes) => mainWorkspace.of(bytes))
      module.startThreads()
      module.check(module.call(prepared.entry, prepared.call))
      operands.finish()
    } finally {
      operands.release()
    }
  }

  async function runAsync(prepare: (operands: Operands) => Prepared, memory: Memory[]): Promise<void> {
    const operands = new Operands(module, residents, copied)
    try {
      const prepared = prepare(operands)
      giveWorkspace(operands, prepared, (bytes) => operands.workspace(bytes)) // its own: other calls run meanwhile
      await module.run(prepared.entry, prepared.call, operands.blocks)
      operands.finish()
    } finally {
      operands.release()
      memory.length = 0 // until here it keeps the operands alive
    }
  }

  /** Runs a float64 function, whose matrices have sizes up to that of a rank. */
  function analysis(sizes: readonly number[], work: (operands: Operands) => number): void {
    const [n, columns = 1] = sizes
    size('the size of a matrix', n, MAX_RANK)
    size('the size of a matrix', columns, MAX_DIMENSION)
    const operands = new Operands(module, residents, copied)
    try {
      module.startThreads()
      module.check(work(operands))
      operands.finish()
    } finally {
      operands.release()
    }
  }

  function describeCpu(): NativeBackend {
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

  const noCuda = 'the cuda backend requires the native addon, and this process runs on WebAssembly'
  const refuse = (): never => {
    throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', noCuda)
  }
  const noDLPack = (): never => {
    throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', `DLPack requires the native addon: ${reason}`)
  }

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
    copied,
    allocateHost: (byteLength) => residents.allocate(byteLength),
    forward(numbers, ...memory) {
      run((operands) => prepareForward(operands, numbers, memory))
    },
    forwardAsync: (numbers, ...memory) => runAsync((operands) => prepareForward(operands, numbers, memory), memory),
    backward(numbers, ...memory) {
      run((operands) => prepareBackward(operands, numbers, memory))
    },
    backwardAsync: (numbers, ...memory) => runAsync((operands) => prepareBackward(operands, numbers, memory), memory),
    linear(numbers, ...memory) {
      run((operands) => prepareLinear(operands, numbers, memory))
    },
    linearAsync: (numbers, ...memory) => runAsync((operands) => prepareLinear(operands, numbers, memory), memory),
    linearPackedBytes(numbers, ...memory) {
      const operands = new Operands(module, residents, copied)
      try {
        // Its size is that of a weight in memory, so that nothing overflows.
        const { call } = prepareWeight(operands, numbers, memory, 'none')
        return query(module, 'linearPackedBytes', call + abi.linearStruct.problem)
      } finally {
        operands.release()
      }
    },
    linearPack(numbers, ...memory) {
      const operands = new Operands(module, residents, copied)
      try {
        const { reader, call } = prepareWeight(operands, numbers, memory, 'read')
        const bytes = query(module, 'linearPackedBytes', call + abi.linearStruct.problem)
        const packed = reader.packed(call + abi.linearStruct.packed, bytes, 'write')
        module.check(module.call('linearPack', call, packed))
        operands.finish()
      } finally {
        operands.release()
      }
    },
    fold(numbers, db, partials, weights) {
      run((operands) => prepareFold(operands, numbers, db, partials, weights))
    },
    adamw(numbers, norm, arrays) {
      run((operands) => prepareAdamW(operands, numbers, norm, arrays))
    },
    measureRoof(backendNumber, device, roof, byteLength) {
      checkCpu(backendNumber, device)
      const which = whole('roof', roof)
      const bytes = whole('byteLength', byteLength)
      if (bytes < 0 || bytes > MAX_ROOF_BYTES) {
        throw bindingError('ERR_LILY_ARGUMENT', `byteLength must be from 0 to ${MAX_ROOF_BYTES}`)
      }
      module.startThreads()
      module.check(module.call('measureRoof', device, choice(which), bytes, module.scratch))
      return module.view.getFloat64(module.scratch, true)
    },
    fileLock: () => null,
    hostAddress(array) {
      const buffer = bufferOf(array)
      if (residents.has(buffer)) return byteOffsetOf(array)
      let begin = others.get(buffer)
      if (begin === undefined) others.set(buffer, (begin = OTHERS_BEGIN + otherCount++ * OTHERS_STEP))
      return begin + byteOffsetOf(array)
    },
    gramFactor(x, r, columns, l) {
      analysis([r, columns], (operands) => {
        const from = operands.array('a matrix', x, 0, r * columns, 8, 'read')
        const to = operands.array('a matrix', l, 0, r * r, 8, 'write')
        return module.exports.lily_cpu_gram_factor(from, BigInt(r), BigInt(columns), to)
      })
    },
    congruenceEigenvalues(l, x, r, columns, values) {
      analysis([r, columns], (operands) => {
        const left = operands.array('a matrix', l, 0, r * r, 8, 'read')
        const right = operands.array('a matrix', x, 0, r * columns, 8, 'read')
        const to = operands.array('a matrix', values, 0, r, 8, 'write')
        return module.exports.lily_cpu_congruence_eigenvalues(left, right, BigInt(r), BigInt(columns), to)
      })
    },
    eigenvalues(lower, n, values) {
      analysis([n], (operands) => {
        const from = operands.array('a matrix', lower, 0, n * n, 8, 'update')
        const to = operands.array('a matrix', values, 0, n, 8, 'write')
        return module.exports.lily_cpu_eigenvalues(from, BigInt(n), to)
      })
    },
    backends: () => [describeCpu(), { name: 'cuda', available: false, reason: noCuda, devices: [] }],
    processor: () => ({
      instructionSets: module.build,
      affinity: host.processors,
      quota: 0,
      physicalCores: 0,
      amxRefusal: '',
    }),
    poolStatistics(number): PoolStatistics {
      if (number !== CPU) refuse()
      return mainWorkspace.statistics()
    },
    emptyCache() {
      mainWorkspace.release()
    },
    memoryAllocate: refuse,
    memoryAddress: refuse,
    memoryRelease: refuse,
    checkPointer: refuse,
    upload: refuse,
    download: refuse,
    copy: refuse,
    fill: refuse,
    streamDefault: refuse,
    streamCreate: refuse,
    streamHandle: refuse,
    streamDestroy: refuse,
    streamOrder: refuse,
    streamWait: refuse,
    streamWaitEvent: refuse,
    eventCreate: refuse,
    eventDestroy: refuse,
    eventRecord: refuse,
    eventQuery: refuse,
    eventWait: refuse,
    eventElapsed: refuse,
    captureBegin: refuse,
    captureEnd: refuse,
    graphLaunch: refuse,
    graphDestroy: refuse,
    dlpackExport: noDLPack,
    dlpackRead: noDLPack,
    dlpackTake: noDLPack,
  }
}

/** Gives a call its workspace, unless it needs none. */
function giveWorkspace(operands: Operands, { workspace }: Prepared, allocate: (bytes: number) => number): void {
  if (workspace === null) return
  operands.int32(workspace.addressAt, allocate(workspace.bytes))
  operands.int32(workspace.bytesAt, workspace.bytes)
}

/** The workspace of the calls on the main thread. It grows to the largest that a call needs, and stays. */
class Workspace {
  #address = 0
  #byteLength = 0
  #allocations = 0

  constructor(private readonly module: Module) {}

  of(byteLength: number): number {
    if (this.#address !== 0 && byteLength <= this.#byteLength) return this.#address
    this.release()
    this.#address = this.module.allocate('a workspace', byteLength)
    this.#byteLength = byteLength
    this.#allocations++
    return this.#address
  }

  release(): void {
    if (this.#address !== 0) this.module.release(this.#address)
    this.#address = 0
    this.#byteLength = 0
  }

  statistics(): PoolStatistics {
    return {
      bytesInUse: 0,
      bytesCached: this.#byteLength,
      peakBytesInUse: this.#byteLength,
      blocksInUse: 0,
      blocksCached: this.#byteLength > 0 ? 1 : 0,
      allocations: this.#allocations,
    }
  }
}
