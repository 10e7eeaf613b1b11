/**
 * The binding of the cpu backend in WebAssembly: what the addon is elsewhere. It reads the same descriptors, checks the
 * same things, and calls the same C ABI.
 */
import { bufferOf, byteLengthOf, byteOffsetOf } from '../../base/views.js'
import {
  adamwFields,
  adamwParameterFields,
  backwardSlots,
  callFields,
  descriptor,
  foldFields,
  foldLayerFields,
  forwardSlots,
  linearFields,
  linearSlots,
  slotFields,
  lengths,
} from '../descriptor.js'
import type { Binding, Memory, NativeBackend, PoolStatistics } from '../native.js'
import * as abi from './abi.js'
import { bindingError } from './errors.js'
import type { Host } from './host.js'
import type { Entry, Module } from './module.js'
import { type Copied, elementBytes, Operands, slotField, whole } from './operands.js'
import { Residents } from './residents.js'

const CPU = 0
const FLOAT32 = abi.dtype.float32
const FLOAT32_BYTES = 4
const { routing } = abi

/** The most that problem_error of native/core/problem.cc allows: no product of such sizes overflows. */
const MAX_RANK = 4096
const MAX_EXPERTS = 64
const MAX_DIMENSION = 2 ** 40

/** SharedArrayBuffers of others: where each of them begins, in numbers that are no addresses of the module. */
const OTHERS_BEGIN = 2 ** 40
const OTHERS_STEP = 2 ** 36

/** Larger than any cache, and small enough to allocate. */
const MAX_ROOF_BYTES = 2 ** 31

/** A call that is ready to run. */
interface Prepared {
  readonly entry: Entry
  readonly call: number
  readonly operands: Operands
}

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
  const workspace = new Workspace(module)
  const others = new WeakMap<ArrayBufferLike, number>()
  let otherCount = 0

  /** Prepares a call, runs it and copies its outputs back. */
  function run(prepare: (operands: Operands) => Prepared): void {
    const operands = new Operands(module, residents, copied)
    try {
      const { entry, call } = prepare(operands)
      module.startThreads()
      module.check(module.call(entry, call))
      operands.finish()
    } finally {
      operands.release()
    }
  }

  async function runAsync(prepare: (operands: Operands) => Prepared, memory: Memory[]): Promise<void> {
    const operands = new Operands(module, residents, copied)
    try {
      const { entry, call } = prepare(operands)
      await module.run(entry, call, operands.blocks)
      operands.finish()
    } finally {
      operands.release()
      memory.length = 0 // until here it keeps the operands alive
    }
  }

  function query(entry: Entry, address: number): number {
    module.check(module.call(entry, address, module.scratch))
    return module.view.getUint32(module.scratch, true)
  }

  /** Gives a call its workspace. `own`: one that no other call uses meanwhile. */
  function setWorkspace(operands: Operands, bytes: number, at: { data: number; bytes: number }, own: boolean): void {
    operands.int32(at.data, own ? operands.workspace(bytes) : workspace.of(bytes))
    operands.int32(at.bytes, bytes)
  }

  const at = (struct: { workspace: number; workspaceBytes: number }, call: number) => ({
    data: call + struct.workspace,
    bytes: call + struct.workspaceBytes,
  })

  function prepareForward(operands: Operands, numbers: Float64Array, memory: Memory[], own: boolean): Prepared {
    const reader = new CallReader(operands, numbers, memory, forwardSlots)
    const { problem } = reader
    const struct = abi.forwardStruct
    const call = operands.struct(struct.bytes)
    reader.writeProblem(call + struct.problem)
    const bytes = query('forwardWorkspace', call + struct.problem)
    reader.tokens(call + struct.tokens)
    const { tokens, dIn, dOut, rank, experts, groups } = problem
    reader.activations(call + struct.x, 'x', tokens, dIn, 'read')
    reader.parameter(call + struct.a, 'a', rank, dIn)
    if (hasRouter(problem)) reader.parameter(call + struct.router, 'router', experts, rank)
    if (problem.routing === routing.none) reader.parameter(call + struct.b, 'b', dOut, rank)
    else reader.parameter(call + struct.b, 'b', experts * rank, dOut)
    reader.activations(call + struct.y, 'y', tokens, dOut, 'output')
    reader.arrayIfGiven(call + struct.hidden, 'hidden', tokens * rank, hiddenBytes(problem), 'write')
    reader.arrayIfGiven(call + struct.probabilities, 'probabilities', tokens * experts, FLOAT32_BYTES, 'write')
    if (problem.routing === routing.fixed) {
      reader.array(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'read')
    } else if (hasWeights(problem)) {
      reader.arrayIfGiven(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'write')
    }
    setWorkspace(operands, bytes, at(struct, call), own)
    return { entry: 'forward', call, operands }
  }

  function prepareBackward(operands: Operands, numbers: Float64Array, memory: Memory[], own: boolean): Prepared {
    const reader = new CallReader(operands, numbers, memory, backwardSlots)
    const { problem } = reader
    const struct = abi.backwardStruct
    const call = operands.struct(struct.bytes)
    reader.writeProblem(call + struct.problem)
    const bytes = query('backwardWorkspace', call + struct.problem)
    reader.tokens(call + struct.tokens)
    const { tokens, dIn, dOut, rank, experts, groups } = problem
    const lora = problem.routing === routing.none
    const [bRows, bColumns] = lora ? [dOut, rank] : [experts * rank, dOut]
    reader.activations(call + struct.dy, 'dy', tokens, dOut, 'read')
    reader.activations(call + struct.x, 'x', tokens, dIn, 'read')
    reader.parameter(call + struct.a, 'a', rank, dIn)
    reader.parameter(call + struct.b, 'b', bRows, bColumns)
    reader.array(call + struct.hidden, 'hidden', tokens * rank, hiddenBytes(problem), 'read')
    reader.activationsIfGiven(call + struct.dx, 'dx', tokens, dIn)
    reader.gradientIfGiven(call + struct.da, 'da', rank, dIn)
    if (hasRouter(problem)) {
      reader.parameter(call + struct.router, 'router', experts, rank)
      reader.gradientIfGiven(call + struct.dRouter, 'dRouter', experts, rank)
    }
    if (keepsProbabilities(problem)) {
      reader.array(call + struct.probabilities, 'probabilities', tokens * experts, FLOAT32_BYTES, 'read')
    }
    if (hasWeights(problem)) reader.array(call + struct.weights, 'weights', groups * experts, FLOAT32_BYTES, 'read')
    if (reader.has('deferredDb')) {
      if (lora || reader.has('db')) {
        throw bindingError('ERR_LILY_ARGUMENT', 'deferredDb is for Lily, and without db')
      }
      const partials = problem.routing === routing.token ? experts : Math.min(groups, experts)
      reader.array(call + struct.deferredDb, 'deferredDb', partials * rank * dOut, FLOAT32_BYTES, 'write')
    } else {
      reader.gradientIfGiven(call + struct.db, 'db', bRows, bColumns)
    }
    setWorkspace(operands, bytes, at(struct, call), own)
    return { entry: 'backward', call, operands }
  }

  /** The problem and the weight of a call of a frozen linear layer. */
  function prepareWeight(operands: Operands, numbers: Float64Array, memory: Memory[], access: 'none' | 'read') {
    const reader = new LinearReader(operands, numbers, memory)
    const struct = abi.linearStruct
    const call = operands.struct(struct.bytes)
    reader.writeProblem(call + struct.problem)
    const { dIn, dOut, parameterDtype } = reader.problem
    const bytes = query('linearWorkspace', call + struct.problem)
    reader.matrix(call + struct.weight, 'weight', dOut, dIn, access, parameterDtype)
    return { reader, call, bytes }
  }

  function prepareLinear(operands: Operands, numbers: Float64Array, memory: Memory[], own: boolean): Prepared {
    // A call with a packed weight does not read the other one.
    const access = memory[linearSlots.packed] == null ? 'read' : 'none'
    const { reader, call, bytes } = prepareWeight(operands, numbers, memory, access)
    const struct = abi.linearStruct
    const { tokens, dIn, dOut, transposed, activationDtype, parameterDtype } = reader.problem
    const [depth, columns] = transposed ? [dOut, dIn] : [dIn, dOut]
    if (reader.has('packed')) {
      const packedBytes = query('linearPackedBytes', call + struct.problem)
      reader.packed(call + struct.packed, packedBytes, 'read')
    }
    reader.matrix(call + struct.x, 'x', tokens, depth, 'read', activationDtype)
    if (reader.has('bias')) {
      if (transposed) throw bindingError('ERR_LILY_ARGUMENT', 'bias is for the forward direction')
      reader.matrix(call + struct.bias, 'bias', 1, dOut, 'read', parameterDtype)
    }
    reader.matrix(call + struct.y, 'y', tokens, columns, 'output', activationDtype)
    setWorkspace(operands, bytes, at(struct, call), own)
    return { entry: 'linear', call, operands }
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
      run((operands) => prepareForward(operands, numbers, memory, false))
    },
    forwardAsync: (numbers, ...memory) =>
      runAsync((operands) => prepareForward(operands, numbers, memory, true), memory),
    backward(numbers, ...memory) {
      run((operands) => prepareBackward(operands, numbers, memory, false))
    },
    backwardAsync: (numbers, ...memory) =>
      runAsync((operands) => prepareBackward(operands, numbers, memory, true), memory),
    linear(numbers, ...memory) {
      run((operands) => prepareLinear(operands, numbers, memory, false))
    },
    linearAsync: (numbers, ...memory) => runAsync((operands) => prepareLinear(operands, numbers, memory, true), memory),
    linearPackedBytes(numbers, ...memory) {
      const operands = new Operands(module, residents, copied)
      try {
        // Its size is that of a weight in memory, so that nothing overflows.
        const { call } = prepareWeight(operands, numbers, memory, 'none')
        return query('linearPackedBytes', call + abi.linearStruct.problem)
      } finally {
        operands.release()
      }
    },
    linearPack(numbers, ...memory) {
      const operands = new Operands(module, residents, copied)
      try {
        const { reader, call } = prepareWeight(operands, numbers, memory, 'read')
        const bytes = query('linearPackedBytes', call + abi.linearStruct.problem)
        const packed = reader.packed(call + abi.linearStruct.packed, bytes, 'write')
        module.check(module.call('linearPack', call, packed))
        operands.finish()
      } finally {
        operands.release()
      }
    },
    fold(numbers, db, partials, weights) {
      run((operands) => {
        checkLength(numbers, lengths.foldFields + lengths.slotFields + partials.length * lengths.foldLayerFields)
        checkCpu(numbers[foldFields.backend], numbers[foldFields.device])
        const struct = abi.foldStruct
        const dOut = size('d_out', numbers[foldFields.dOut], MAX_DIMENSION)
        const rank = size('rank', numbers[foldFields.rank], MAX_RANK)
        const experts = size('experts', numbers[foldFields.experts], MAX_EXPERTS)
        if (weights.length !== partials.length) {
          throw bindingError('ERR_LILY_ARGUMENT', `weights must be an array of ${partials.length} elements`)
        }
        const call = operands.struct(struct.bytes)
        const layers = operands.struct(partials.length * abi.deferredStruct.bytes)
        for (const [i, partial] of partials.entries()) {
          const field = lengths.foldFields + lengths.slotFields + i * lengths.foldLayerFields
          const layer = layers + i * abi.deferredStruct.bytes
          const count = whole('partials', numbers[field + foldLayerFields.partials])
          const weight = weights[i] ?? null
          if (count < 0 || count > MAX_EXPERTS || (weight === null && count !== experts)) {
            throw bindingError('ERR_LILY_ARGUMENT', 'the number of partials does not match the weights and experts')
          }
          const elements = count * rank * dOut
          operands.int32(
            layer + abi.deferredStruct.partial,
            operands.array('a deferred gradient', partial, 0, elements, FLOAT32_BYTES, 'read'),
          )
          if (weight !== null) {
            const offset = whole('weightsOffset', numbers[field + foldLayerFields.weightsOffset])
            const name = 'weights of a deferred gradient'
            operands.int32(
              layer + abi.deferredStruct.weights,
              operands.array(name, weight, offset, count * experts, FLOAT32_BYTES, 'read'),
            )
          }
          operands.int64(layer + abi.deferredStruct.groups, count)
        }
        operands.int64(call + struct.rank, rank)
        operands.int64(call + struct.experts, experts)
        operands.int64(call + struct.dOut, dOut)
        operands.int32(call + struct.layers, layers)
        operands.int64(call + struct.layerCount, partials.length)
        const types = [abi.dtype.float32, abi.dtype.bfloat16, abi.dtype.float16]
        operands.matrix(call + struct.db, 'db', db, numbers, lengths.foldFields, experts * rank, dOut, 'output', types)
        return { entry: 'fold', call, operands }
      })
    },
    adamw(numbers, norm, arrays) {
      run((operands) => {
        const count = arrays.length / 4
        if (!Number.isInteger(count)) {
          throw bindingError('ERR_LILY_ARGUMENT', 'arrays must have four arrays for each parameter')
        }
        checkLength(numbers, lengths.adamwFields + count * lengths.adamwParameterFields)
        checkCpu(numbers[adamwFields.backend], numbers[adamwFields.device])
        const struct = abi.adamwStruct
        const call = operands.struct(struct.bytes)
        const parameters = operands.struct(count * abi.adamwParameterStruct.bytes)
        for (let i = 0; i < count; i++) {
          const field = lengths.adamwFields + i * lengths.adamwParameterFields
          const number = (name: keyof typeof adamwParameterFields) => numbers[field + adamwParameterFields[name]]
          const elements = whole('elements', number('elements'))
          const valueType = dtypeOf(number('valueDtype'))
          const gradType = dtypeOf(number('gradDtype'))
          if (gradType !== valueType && gradType !== FLOAT32) {
            throw bindingError('ERR_LILY_DTYPE', "a gradient has its value's dtype or float32")
          }
          const parameter = parameters + i * abi.adamwParameterStruct.bytes
          const place = (to: number, name: string, which: number, offset: number, type: number, writes: boolean) => {
            const access = writes ? 'update' : 'read'
            const bytes = elementBytes(type)
            operands.int32(parameter + to, operands.array(name, arrays[4 * i + which], offset, elements, bytes, access))
          }
          const fields = abi.adamwParameterStruct
          place(fields.value, 'value', 0, whole('valueOffset', number('valueOffset')), valueType, true)
          place(fields.grad, 'grad', 1, whole('gradOffset', number('gradOffset')), gradType, false)
          place(fields.expAvg, 'exp_avg', 2, 0, FLOAT32, true)
          place(fields.expAvgSq, 'exp_avg_sq', 3, 0, FLOAT32, true)
          operands.int64(parameter + fields.count, elements)
          operands.int32(parameter + fields.valueDtype, valueType)
          operands.int32(parameter + fields.gradDtype, gradType)
          module.view.setFloat64(parameter + fields.lr, number('lr') ?? NaN, true)
          module.view.setFloat64(parameter + fields.weightDecay, number('weightDecay') ?? NaN, true)
        }
        operands.int32(call + struct.parameters, parameters)
        operands.int64(call + struct.parameterCount, count)
        module.view.setFloat64(call + struct.beta1, numbers[adamwFields.beta1] ?? NaN, true)
        module.view.setFloat64(call + struct.beta2, numbers[adamwFields.beta2] ?? NaN, true)
        module.view.setFloat64(call + struct.eps, numbers[adamwFields.eps] ?? NaN, true)
        operands.int64(call + struct.step, size('step', numbers[adamwFields.step], 2 ** 53))
        module.view.setFloat32(call + struct.maxNorm, numbers[adamwFields.maxNorm] ?? NaN, true)
        if (norm != null) {
          operands.int32(call + struct.norm, operands.array('norm', norm, 0, 1, FLOAT32_BYTES, 'write'))
        }
        const bytes = query('adamwWorkspace', call)
        setWorkspace(operands, bytes, at(struct, call), false)
        return { entry: 'adamw', call, operands }
      })
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
      return workspace.statistics()
    },
    emptyCache() {
      workspace.release()
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

function checkLength(numbers: Float64Array, count: number): void {
  if (byteLengthOf(numbers) / Float64Array.BYTES_PER_ELEMENT >= count) return
  throw bindingError('ERR_LILY_ARGUMENT', `the descriptor must have ${count} numbers`)
}

function checkCpu(backend: number | undefined, device: number | undefined): void {
  if (backend === CPU && device === 0) return
  throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', 'on WebAssembly there is only the cpu backend, with device 0')
}

function size(name: string, value: number | undefined, most: number): number {
  const number = whole(name, value)
  if (number >= 1 && number <= most) return number
  throw bindingError('ERR_LILY_ARGUMENT', `${name} must be from 1 to ${most}`)
}

function dtypeOf(value: number | undefined): number {
  const type = whole('dtype', value)
  if (elementBytes(type) > 0) return type
  throw bindingError('ERR_LILY_DTYPE', 'unknown dtype')
}

type Slots = Readonly<Record<string, number>>

/** Reads the operands of a descriptor. */
class Reader<S extends Slots> {
  constructor(
    readonly operands: Operands,
    readonly numbers: Float64Array,
    private readonly memory: readonly Memory[],
    private readonly fields: number,
    private readonly slots: S,
  ) {
    checkLength(numbers, fields + Object.keys(slots).length * lengths.slotFields)
  }

  has(slot: keyof S & string): boolean {
    return this.memory[this.slots[slot] as number] != null
  }

  matrixOf(
    address: number,
    slot: keyof S & string,
    rows: number,
    columns: number,
    access: 'none' | 'read' | 'output',
    types: readonly number[],
  ): void {
    const position = this.slots[slot] as number
    const field = slotField(this.fields, position)
    this.operands.matrix(address, slot, this.memory[position], this.numbers, field, rows, columns, access, types)
  }

  /** Writes the address of an array, and returns it. */
  array(address: number, slot: keyof S & string, count: number, bytes: number, access: 'read' | 'write'): number {
    const position = this.slots[slot] as number
    const offset = whole('byteOffset', this.numbers[slotField(this.fields, position) + slotFields.byteOffset])
    const found = this.operands.array(slot, this.memory[position], offset, count, bytes, access)
    this.operands.int32(address, found)
    return found
  }

  arrayIfGiven(address: number, slot: keyof S & string, count: number, bytes: number, access: 'read' | 'write'): void {
    if (this.has(slot)) this.array(address, slot, count, bytes, access)
  }
}

type Problem = Readonly<Record<Exclude<keyof typeof callFields, 'backend' | 'stream' | 'memoryStream'>, number>>

/** Reads a forward or backward call. */
class CallReader<S extends Slots> extends Reader<S> {
  readonly problem: Problem

  constructor(operands: Operands, numbers: Float64Array, memory: readonly Memory[], slots: S) {
    super(operands, numbers, memory, lengths.callFields, slots)
    checkCpu(numbers[callFields.backend], numbers[callFields.device])
    const problem: Record<string, number> = {}
    for (const [name, position] of Object.entries(callFields)) {
      problem[name] = name === 'scaling' ? (numbers[position] ?? NaN) : whole(name, numbers[position])
    }
    this.problem = problem as Problem
  }

  /** Writes the problem. The ABI checks it with the first call that reads it, which is that for the workspace. */
  writeProblem(address: number): void {
    const { operands, problem } = this
    const struct = abi.problemStruct
    for (const name of ['tokens', 'dIn', 'dOut', 'rank', 'experts', 'groups'] as const) {
      operands.int64(address + struct[name], problem[name])
    }
    for (const name of ['routing', 'pool', 'activation', 'precision', 'activationDtype', 'parameterDtype'] as const) {
      operands.int32(address + struct[name], choice(problem[name]))
    }
    operands.module.view.setFloat32(address + struct.scaling, problem.scaling, true)
  }

  /** The mask and a copy of the sequence offsets, which the kernels take addresses from. */
  tokens(address: number): void {
    const { problem, operands } = this
    const { tokens, groups } = problem
    this.arrayIfGiven(address + abi.tokensStruct.mask, 'mask', tokens, 1, 'read')
    const isFixed = problem.routing === routing.fixed
    if (problem.routing !== routing.sequence && !isFixed) return
    if (!this.has('sequenceOffsets') && isFixed && groups === 1) return
    const given = this.array(address + abi.tokensStruct.sequenceOffsets, 'sequenceOffsets', groups + 1, 4, 'read')
    const copy = operands.allocate('sequenceOffsets', (groups + 1) * 4)
    const { module } = operands
    module.bytes(copy, (groups + 1) * 4).set(module.bytes(given, (groups + 1) * 4))
    operands.int32(address + abi.tokensStruct.sequenceOffsets, copy)
    const offsets = new Int32Array(module.memory.buffer, copy, groups + 1)
    const ascends = offsets.every((offset, i) => i === 0 || offset >= offsets[i - 1])
    if (ascends && offsets[0] === 0 && offsets[groups] === tokens) return
    throw bindingError('ERR_LILY_ARGUMENT', 'sequenceOffsets do not ascend from 0 to the number of tokens')
  }

  activations(address: number, slot: keyof S & string, rows: number, columns: number, access: 'read' | 'output'): void {
    this.matrixOf(address, slot, rows, columns, access, [this.problem.activationDtype])
  }

  activationsIfGiven(address: number, slot: keyof S & string, rows: number, columns: number): void {
    if (this.has(slot)) this.activations(address, slot, rows, columns, 'output')
  }

  parameter(address: number, slot: keyof S & string, rows: number, columns: number): void {
    this.matrixOf(address, slot, rows, columns, 'read', [this.problem.parameterDtype])
  }

  /** The gradient of a parameter may also be float32. */
  gradientIfGiven(address: number, slot: keyof S & string, rows: number, columns: number): void {
    if (!this.has(slot)) return
    this.matrixOf(address, slot, rows, columns, 'output', [this.problem.parameterDtype, FLOAT32])
  }
}

/** Reads a call of a frozen linear layer. */
class LinearReader extends Reader<typeof linearSlots> {
  readonly problem: Readonly<Record<'tokens' | 'dIn' | 'dOut' | 'activationDtype' | 'parameterDtype', number>> & {
    readonly transposed: boolean
  }

  constructor(operands: Operands, numbers: Float64Array, memory: readonly Memory[]) {
    super(operands, numbers, memory, lengths.linearFields, linearSlots)
    checkCpu(numbers[linearFields.backend], numbers[linearFields.device])
    const number = (name: keyof typeof linearFields) => whole(name, numbers[linearFields[name]])
    this.problem = {
      tokens: number('tokens'),
      dIn: number('dIn'),
      dOut: number('dOut'),
      transposed: number('transposed') !== 0,
      activationDtype: number('activationDtype'),
      parameterDtype: number('parameterDtype'),
    }
  }

  writeProblem(address: number): void {
    const { operands, problem, numbers } = this
    const struct = abi.linearProblemStruct
    for (const name of ['tokens', 'dIn', 'dOut'] as const) operands.int64(address + struct[name], problem[name])
    for (const name of ['transposed', 'precision', 'activationDtype', 'parameterDtype'] as const) {
      operands.int32(address + struct[name], choice(whole(name, numbers[linearFields[name]])))
    }
  }

  matrix(
    address: number,
    slot: keyof typeof linearSlots,
    rows: number,
    columns: number,
    access: 'none' | 'read' | 'output',
    type: number,
  ): void {
    this.matrixOf(address, slot, rows, columns, access, [type])
  }

  /** A packed weight of so many bytes. */
  packed(address: number, byteLength: number, access: 'read' | 'write'): number {
    return this.array(address, 'packed', byteLength / FLOAT32_BYTES, FLOAT32_BYTES, access)
  }
}

/** A number of an enumeration, or one that no enumeration has. */
function choice(value: number): number {
  return value >= 0 && value < 2 ** 31 ? value : -1
}

// As in native/core/problem.cc.

function hasRouter({ routing: kind }: Problem): boolean {
  return kind === routing.batch || kind === routing.sequence || kind === routing.token
}

function hasWeights({ routing: kind }: Problem): boolean {
  return kind !== routing.token && kind !== routing.none
}

function keepsProbabilities({ routing: kind, pool }: Problem): boolean {
  if (kind === routing.token) return true
  return (kind === routing.batch || kind === routing.sequence) && pool === abi.pool.probabilities
}

function hiddenBytes({ activationDtype, parameterDtype, precision }: Problem): number {
  const isFloat32 = parameterDtype === FLOAT32 && precision === abi.precision.high
  return isFloat32 ? FLOAT32_BYTES : elementBytes(activationDtype)
}
