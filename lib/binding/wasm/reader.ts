/** Reads the descriptor of a call and writes what the C ABI has for it. */
import { byteLengthOf } from '../../base/views.js'
import { callFields, linearFields, linearSlots, slotFields, lengths } from '../descriptor.js'
import type { Memory } from '../native.js'
import * as abi from './abi.js'
import { bindingError } from './errors.js'
import { elementBytes, type MatrixAccess, type Operands, slotField, whole } from './operands.js'

export const CPU = 0
export const FLOAT32 = abi.dtype.float32
export const FLOAT32_BYTES = 4
const { routing } = abi

/** The most that problem_error of native/core/problem.cc allows: no product of such sizes overflows. */
export const MAX_RANK = 4096
export const MAX_EXPERTS = 64
export const MAX_DIMENSION = 2 ** 40

export function checkLength(numbers: Float64Array, count: number): void {
  if (byteLengthOf(numbers) / Float64Array.BYTES_PER_ELEMENT >= count) return
  throw bindingError('ERR_LILY_ARGUMENT', `the descriptor must have ${count} numbers`)
}

export function checkCpu(backend: number | undefined, device: number | undefined): void {
  if (backend === CPU && device === 0) return
  throw bindingError('ERR_LILY_BACKEND_UNAVAILABLE', 'on WebAssembly there is only the cpu backend, with device 0')
}

export function size(name: string, value: number | undefined, most: number): number {
  const number = whole(name, value)
  if (number >= 1 && number <= most) return number
  throw bindingError('ERR_LILY_ARGUMENT', `${name} must be from 1 to ${most}`)
}

export function dtypeOf(value: number | undefined): number {
  const type = whole('dtype', value)
  if (elementBytes(type) > 0) return type
  throw bindingError('ERR_LILY_DTYPE', 'unknown dtype')
}

/** A number of an enumeration, or one that no enumeration has. */
export function choice(value: number): number {
  return value >= 0 && value < 2 ** 31 ? value : -1
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
    access: MatrixAccess,
    types: readonly number[],
  ): void {
    const position = this.slots[slot] as number
    const [memory, field] = [this.memory[position], slotField(this.fields, position)]
    const { numbers } = this
    this.operands.matrix(address, { name: slot, memory, numbers, field, rows, columns, access, types })
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

export type Problem = Readonly<Record<Exclude<keyof typeof callFields, 'backend' | 'stream' | 'memoryStream'>, number>>

/** Reads a forward or backward call. */
export class CallReader<S extends Slots> extends Reader<S> {
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
export class LinearReader extends Reader<typeof linearSlots> {
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
    access: MatrixAccess,
    type: number,
  ): void {
    this.matrixOf(address, slot, rows, columns, access, [type])
  }

  /** A packed weight of so many bytes. */
  packed(address: number, byteLength: number, access: 'read' | 'write'): number {
    return this.array(address, 'packed', byteLength / FLOAT32_BYTES, FLOAT32_BYTES, access)
  }
}
