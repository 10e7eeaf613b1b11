/** Reads the descriptors of calls (lib/binding/descriptor.ts) into the form that kernels take. */
import {
  adamwFields,
  adamwParameterFields,
  backwardSlots,
  callFields,
  foldFields,
  foldLayerFields,
  forwardSlots,
  slotFields,
  lengths,
} from '../binding/descriptor.js'
import type { Memory } from '../binding/native.js'
import * as abi from '../binding/wasm/abi.js'
import type {
  AdamWCall,
  Allocate,
  BackwardCall,
  FoldCall,
  ForwardCall,
  Matrix,
  NumberType,
  Output,
  Region,
  Sizes,
} from './call.js'

/** The buffer of an operand's memory. */
export type BufferOf = (memory: Memory) => GPUBuffer

/** The name of a number of an enumeration. */
function nameOf<T extends string>(values: Readonly<Record<T, number>>, number: number): T {
  const found = (Object.keys(values) as T[]).find((name) => values[name] === number)
  if (found === undefined) throw new Error(`${number} is no value of the enumeration`)
  return found
}

function numberType(number: number): NumberType {
  return nameOf(abi.dtype, number)
}

/** Reads the operands of a call from their slots. */
class Slots {
  constructor(
    private readonly numbers: Float64Array,
    private readonly fields: number,
    private readonly memory: readonly Memory[],
    private readonly bufferOf: BufferOf,
  ) {}

  region(slot: number): Region | null {
    const memory = this.memory[slot]
    if (memory === null) return null
    return { buffer: this.bufferOf(memory), byteOffset: this.#number(slot, 'byteOffset') }
  }

  output(slot: number): Output | null {
    const region = this.region(slot)
    return (
      region && {
        ...region,
        dtype: numberType(this.#number(slot, 'dtype')),
        pitch: this.#number(slot, 'pitch'),
        accumulate: this.#number(slot, 'accumulate') !== 0,
      }
    )
  }

  /** An operand that may be absent. */
  optional(slot: number): Matrix | null {
    return this.output(slot)
  }

  matrix(slot: number): Matrix {
    return required(this.output(slot))
  }

  #number(slot: number, field: keyof typeof slotFields): number {
    return this.numbers[this.fields + slot * lengths.slotFields + slotFields[field]]
  }
}

function required<T>(operand: T | null): T {
  if (operand === null) throw new Error('a call lacks an operand')
  return operand
}

function sizesOf(numbers: Float64Array): Sizes {
  const routing = nameOf(abi.routing, numbers[callFields.routing])
  return {
    routing,
    pool: nameOf(abi.pool, numbers[callFields.pool]),
    activation: nameOf(abi.activation, numbers[callFields.activation]),
    scaling: Math.fround(numbers[callFields.scaling]),
    tokens: numbers[callFields.tokens],
    dIn: numbers[callFields.dIn],
    dOut: numbers[callFields.dOut],
    rank: numbers[callFields.rank],
    experts: numbers[callFields.experts],
    groups: routing === 'sequence' || routing === 'fixed' ? numbers[callFields.groups] : 1,
  }
}

/**
 * @param allocate gives memory for the hidden state if the call keeps none: its type, and with it the rounding, is the same
 *   in both cases
 */
export function forwardCall(
  numbers: Float64Array,
  memory: readonly Memory[],
  bufferOf: BufferOf,
  allocate: Allocate,
): ForwardCall {
  const slots = new Slots(numbers, lengths.callFields, memory, bufferOf)
  return {
    ...sizesOf(numbers),
    x: slots.matrix(forwardSlots.x),
    a: slots.matrix(forwardSlots.a),
    router: slots.optional(forwardSlots.router),
    b: slots.matrix(forwardSlots.b),
    mask: slots.region(forwardSlots.mask),
    sequenceOffsets: slots.region(forwardSlots.sequenceOffsets),
    y: required(slots.output(forwardSlots.y)),
    hidden: slots.optional(forwardSlots.hidden) ?? hiddenOf(numbers, allocate),
    probabilities: slots.region(forwardSlots.probabilities),
    weights: slots.region(forwardSlots.weights),
  }
}

/** A hidden state that only the call itself reads. */
function hiddenOf(numbers: Float64Array, allocate: Allocate): Matrix {
  const isHigh = numbers[callFields.precision] === abi.precision.high
  const activations = numberType(numbers[callFields.activationDtype])
  const parameters = numberType(numbers[callFields.parameterDtype])
  const dtype = isHigh && parameters === 'float32' ? parameters : activations
  const rank = numbers[callFields.rank]
  const bytes = numbers[callFields.tokens] * rank * (dtype === 'float32' ? 4 : 2)
  return { buffer: allocate(bytes), byteOffset: 0, dtype, pitch: rank }
}

export function backwardCall(numbers: Float64Array, memory: readonly Memory[], bufferOf: BufferOf): BackwardCall {
  const slots = new Slots(numbers, lengths.callFields, memory, bufferOf)
  return {
    ...sizesOf(numbers),
    dy: slots.matrix(backwardSlots.dy),
    x: slots.matrix(backwardSlots.x),
    a: slots.matrix(backwardSlots.a),
    router: slots.optional(backwardSlots.router),
    b: slots.matrix(backwardSlots.b),
    mask: slots.region(backwardSlots.mask),
    sequenceOffsets: slots.region(backwardSlots.sequenceOffsets),
    hidden: slots.matrix(backwardSlots.hidden),
    probabilities: slots.region(backwardSlots.probabilities),
    weights: slots.region(backwardSlots.weights),
    dx: slots.output(backwardSlots.dx),
    da: slots.output(backwardSlots.da),
    dRouter: slots.output(backwardSlots.dRouter),
    db: slots.output(backwardSlots.db),
    deferredDb: slots.region(backwardSlots.deferredDb),
  }
}

export function foldCall(
  numbers: Float64Array,
  db: Memory,
  partials: readonly Memory[],
  weights: readonly Memory[],
  bufferOf: BufferOf,
): FoldCall {
  return {
    experts: numbers[foldFields.experts],
    rank: numbers[foldFields.rank],
    dOut: numbers[foldFields.dOut],
    db: required(new Slots(numbers, lengths.foldFields, [db], bufferOf).output(0)),
    layers: partials.map((memory, i) => {
      const at = lengths.foldFields + lengths.slotFields + i * lengths.foldLayerFields
      const given = weights[i]
      return {
        partials: numbers[at + foldLayerFields.partials],
        matrices: { buffer: bufferOf(memory), byteOffset: 0 },
        weights:
          given === null ? null : { buffer: bufferOf(given), byteOffset: numbers[at + foldLayerFields.weightsOffset] },
      }
    }),
  }
}

/** @param arrays four for each parameter: value, grad, exp_avg, exp_avg_sq */
export function adamwCall(
  numbers: Float64Array,
  norm: Memory,
  arrays: readonly Memory[],
  bufferOf: BufferOf,
): AdamWCall {
  const count = arrays.length / 4
  return {
    step: numbers[adamwFields.step],
    beta1: numbers[adamwFields.beta1],
    beta2: numbers[adamwFields.beta2],
    eps: numbers[adamwFields.eps],
    maxNorm: norm === null ? 0 : numbers[adamwFields.maxNorm],
    norm: norm === null ? null : { buffer: bufferOf(norm), byteOffset: 0 },
    parameters: Array.from({ length: count }, (_, i) => {
      const number = (field: keyof typeof adamwParameterFields) =>
        numbers[lengths.adamwFields + i * lengths.adamwParameterFields + adamwParameterFields[field]]
      const [value, grad, expAvg, expAvgSq] = arrays.slice(4 * i, 4 * i + 4).map(bufferOf)
      return {
        elements: number('elements'),
        value: { buffer: value, byteOffset: number('valueOffset'), dtype: numberType(number('valueDtype')) },
        grad: { buffer: grad, byteOffset: number('gradOffset'), dtype: numberType(number('gradDtype')) },
        expAvg: { buffer: expAvg, byteOffset: 0 },
        expAvgSq: { buffer: expAvgSq, byteOffset: 0 },
        lr: number('lr'),
        weightDecay: number('weightDecay'),
      }
    }),
  }
}
