/** Random valid calls of the functions that the binding exports. */
import {
  adamwFields,
  adamwParameterFields,
  backwardSlots,
  callFields,
  foldFields,
  foldLayerFields,
  forwardSlots,
  linearFields,
  linearSlots,
  slotFields,
} from '../../lib/binding/descriptor.js'
import '../../lib/index.js'
import { native, type Native } from '../../lib/binding/native.js'
import { integer } from '../support/random.js'
import { allocate, type Block, type Random, type View } from './memory.js'

type NameOf<T> = { [K in keyof T]: T[K] extends (...args: never[]) => unknown ? K : never }[keyof T]
export type FunctionName = NameOf<Native>

export interface Call {
  readonly name: FunctionName
  args: unknown[]
  readonly blocks: Block[]
}

export const [CALL, SLOT, FOLD, FOLD_LAYER, ADAMW, ADAMW_PARAMETER, LINEAR] = [
  callFields,
  slotFields,
  foldFields,
  foldLayerFields,
  adamwFields,
  adamwParameterFields,
  linearFields,
].map((fields) => Object.keys(fields).length)
/** Numbers before those of the slots, and slots, of the functions that have slots. */
const FORWARD = { fields: CALL, slots: Object.keys(forwardSlots).length }
const BACKWARD = { fields: CALL, slots: Object.keys(backwardSlots).length }
const LINEAR_CALL = { fields: LINEAR, slots: Object.keys(linearSlots).length }
export const SLOTS = {
  forward: FORWARD,
  forwardAsync: FORWARD,
  backward: BACKWARD,
  backwardAsync: BACKWARD,
  linear: LINEAR_CALL,
  linearAsync: LINEAR_CALL,
  linearPack: LINEAR_CALL,
  linearPackedBytes: LINEAR_CALL,
}
const [FLOAT32, BFLOAT16, FLOAT16] = [0, 1, 2]
const [BATCH, SEQUENCE, TOKEN, FIXED, NONE] = [0, 1, 2, 4, 5]

export function pick<T>(random: Random, list: readonly T[]): T {
  return list[integer(random, 0, list.length - 1)]
}

/** Collects the arrays of one call. */
class Arrays {
  readonly blocks: Block[] = []

  constructor(private readonly random: Random) {}

  private add(block: Block) {
    this.blocks.push(block)
    return block.view
  }

  floats(length: number, isOutput = false) {
    return this.add(allocate(this.random, Float32Array, 4, length, isOutput))
  }

  doubles(length: number, isOutput = false) {
    return this.add(allocate(this.random, Float64Array, 8, length, isOutput))
  }

  bytes(length: number, isOutput = false) {
    return this.add(allocate(this.random, Uint8Array, 1, length, isOutput))
  }

  ints(numbers: readonly number[]) {
    const view = this.add(allocate(this.random, Int32Array, 4, numbers.length, false))
    view.set(numbers)
    return view
  }

  typed(dtype: number, length: number, isOutput = false) {
    if (dtype === FLOAT32) return this.floats(length, isOutput)
    return this.add(allocate(this.random, Uint16Array, 2, length, isOutput))
  }
}

interface Sizes {
  routing: number
  tokens: number
  dIn: number
  dOut: number
  rank: number
  experts: number
  groups: number
  offsets: number[] | null
  activations: number
  parameters: number
  precision: number
  pool: number
}

const TYPES = [
  [FLOAT32, FLOAT32],
  [BFLOAT16, BFLOAT16],
  [FLOAT16, FLOAT16],
  [BFLOAT16, FLOAT32],
  [FLOAT16, FLOAT32],
]

function sizes(random: Random): Sizes {
  const routing = integer(random, 0, 5)
  const isLarge = random() < 0.01
  const tokens = isLarge ? integer(random, 0, 700) : integer(random, 0, 20)
  const most = isLarge ? 300 : 40
  const [activations, parameters] = pick(random, TYPES)
  const hasGroups = routing === SEQUENCE || routing === FIXED
  let groups = hasGroups ? integer(random, tokens > 0 ? 1 : 0, 6) : 1
  let offsets: number[] | null = null
  if (routing === FIXED && random() < 0.3) groups = 1
  else if (hasGroups) {
    const cuts = Array.from({ length: Math.max(groups - 1, 0) }, () => integer(random, 0, tokens))
    offsets = groups === 0 ? [0] : [0, ...cuts.sort((p, q) => p - q), tokens]
  }
  return {
    routing,
    tokens,
    dIn: integer(random, 1, most),
    dOut: integer(random, 1, most),
    rank: integer(random, 1, isLarge ? 140 : 12),
    experts: routing === NONE ? 1 : integer(random, 1, random() < 0.02 ? 64 : 6),
    groups,
    offsets,
    activations,
    parameters,
    precision: integer(random, 0, 2),
    pool: routing === TOKEN ? 0 : integer(random, 0, 1),
  }
}

/** The descriptor and the operands of a call that has slots. */
class Descriptor {
  readonly numbers: Float64Array
  readonly operands: unknown[]

  constructor(
    protected readonly random: Random,
    private readonly arrays: Arrays,
    private readonly size: { fields: number; slots: number },
  ) {
    this.numbers = new Float64Array(size.fields + size.slots * SLOT)
    this.operands = new Array<unknown>(size.slots).fill(null)
  }

  matrix(slot: number, rows: number, columns: number, dtype: number, isOutput = false): void {
    const { random } = this
    const pitch = columns + (random() < 0.3 ? integer(random, 0, 5) : 0)
    const before = random() < 0.2 ? integer(random, 0, 9) : 0
    const length = before + (rows > 0 ? (rows - 1) * pitch + columns : 0)
    this.operands[slot] = this.arrays.typed(dtype, length, isOutput)
    const at = this.size.fields + slot * SLOT
    this.numbers[at + slotFields.byteOffset] = before * (dtype === FLOAT32 ? 4 : 2)
    this.numbers[at + slotFields.pitch] = pitch
    this.numbers[at + slotFields.dtype] = dtype
    this.numbers[at + slotFields.accumulate] = isOutput ? integer(random, 0, 1) : 0
  }

  array(slot: number, view: unknown): void {
    this.operands[slot] = view
  }
}

/** A call of forward or backward. */
class AdapterCall extends Descriptor {
  constructor(random: Random, arrays: Arrays, of: Sizes, size: { fields: number; slots: number }) {
    super(random, arrays, size)
    const { numbers } = this
    numbers[callFields.routing] = of.routing
    numbers[callFields.pool] = of.pool
    numbers[callFields.activation] = integer(random, 0, 1)
    numbers[callFields.precision] = of.precision
    numbers[callFields.activationDtype] = of.activations
    numbers[callFields.parameterDtype] = of.parameters
    numbers[callFields.tokens] = of.tokens
    numbers[callFields.dIn] = of.dIn
    numbers[callFields.dOut] = of.dOut
    numbers[callFields.rank] = of.rank
    numbers[callFields.experts] = of.experts
    numbers[callFields.groups] = of.groups
    numbers[callFields.scaling] = pick(random, [1, 0, -2.5])
  }
}

const hasRouter = (of: Sizes) => of.routing <= TOKEN
const keepsProbabilities = (of: Sizes) => of.routing === TOKEN || (hasRouter(of) && of.pool === 0)
const hasWeights = (of: Sizes) => of.routing !== TOKEN && of.routing !== NONE
const isMasked = (of: Sizes) => of.routing === BATCH || of.routing === SEQUENCE
const hiddenType = (of: Sizes) => (of.parameters === FLOAT32 && of.precision === 1 ? FLOAT32 : of.activations)

function forward(random: Random, arrays: Arrays): unknown[] {
  const of = sizes(random)
  const { tokens, dIn, dOut, rank, experts } = of
  const isLora = of.routing === NONE
  const call = new AdapterCall(random, arrays, of, SLOTS.forward)
  const slot = forwardSlots
  call.matrix(slot.x, tokens, dIn, of.activations)
  call.matrix(slot.a, rank, dIn, of.parameters)
  if (hasRouter(of)) call.matrix(slot.router, experts, rank, of.parameters)
  call.matrix(slot.b, isLora ? dOut : experts * rank, isLora ? rank : dOut, of.parameters)
  call.matrix(slot.y, tokens, dOut, of.activations, true)
  if (random() < 0.5) call.array(slot.hidden, arrays.typed(hiddenType(of), tokens * rank, true))
  if (keepsProbabilities(of) && random() < 0.5) call.array(slot.probabilities, arrays.floats(tokens * experts, true))
  if (of.routing === FIXED || (hasWeights(of) && random() < 0.5)) {
    call.array(slot.weights, arrays.floats(of.groups * experts, of.routing !== FIXED))
  }
  if (isMasked(of) && random() < 0.5) call.array(slot.mask, arrays.bytes(tokens))
  if (of.offsets !== null) call.array(slot.sequenceOffsets, arrays.ints(of.offsets))
  if (of.offsets !== null && random() < 0.1) call.array(slot.uncheckedOffsets, arrays.ints(of.offsets))
  return [call.numbers, ...call.operands]
}

function backward(random: Random, arrays: Arrays): unknown[] {
  const of = sizes(random)
  const { tokens, dIn, dOut, rank, experts } = of
  const isLora = of.routing === NONE
  const [bRows, bColumns] = isLora ? [dOut, rank] : [experts * rank, dOut]
  const call = new AdapterCall(random, arrays, of, SLOTS.backward)
  const slot = backwardSlots
  const gradient = () => pick(random, [of.parameters, FLOAT32])
  call.matrix(slot.dy, tokens, dOut, of.activations)
  call.matrix(slot.x, tokens, dIn, of.activations)
  call.matrix(slot.a, rank, dIn, of.parameters)
  if (hasRouter(of)) call.matrix(slot.router, experts, rank, of.parameters)
  call.matrix(slot.b, bRows, bColumns, of.parameters)
  call.array(slot.hidden, arrays.typed(hiddenType(of), tokens * rank))
  if (keepsProbabilities(of)) call.array(slot.probabilities, arrays.floats(tokens * experts))
  if (hasWeights(of)) call.array(slot.weights, arrays.floats(of.groups * experts))
  if (isMasked(of) && random() < 0.5) call.array(slot.mask, arrays.bytes(tokens))
  if (of.offsets !== null) call.array(slot.sequenceOffsets, arrays.ints(of.offsets))
  if (random() < 0.7) call.matrix(slot.dx, tokens, dIn, of.activations, true)
  if (random() < 0.7) call.matrix(slot.da, rank, dIn, gradient(), true)
  if (hasRouter(of) && random() < 0.7) call.matrix(slot.dRouter, experts, rank, gradient(), true)
  if (!isLora && random() < 0.4) {
    const partials = of.routing === TOKEN ? experts : Math.min(of.groups, experts)
    call.array(slot.deferredDb, arrays.floats(partials * rank * dOut, true))
  } else if (random() < 0.7) {
    call.matrix(slot.db, bRows, bColumns, gradient(), true)
  }
  return [call.numbers, ...call.operands]
}

/** A call of linear, or of linearPack, which writes `packed`. */
function linear(random: Random, arrays: Arrays, packs = false): unknown[] {
  const [activations, parameters] = pick(random, TYPES)
  const isTransposed = integer(random, 0, 1)
  const isLarge = random() < 0.02
  const [tokens, dIn, dOut] = isLarge
    ? [integer(random, 0, 500), integer(random, 1, 600), integer(random, 1, 600)]
    : [integer(random, 0, 20), integer(random, 1, 40), integer(random, 1, 40)]
  const call = new Descriptor(random, arrays, LINEAR_CALL)
  const { numbers } = call
  numbers[linearFields.transposed] = isTransposed
  numbers[linearFields.precision] = integer(random, 0, 2)
  numbers[linearFields.activationDtype] = activations
  numbers[linearFields.parameterDtype] = parameters
  numbers[linearFields.tokens] = tokens
  numbers[linearFields.dIn] = dIn
  numbers[linearFields.dOut] = dOut
  const [depth, columns] = isTransposed === 1 ? [dOut, dIn] : [dIn, dOut]
  call.matrix(linearSlots.weight, dOut, dIn, parameters)
  // Enough for the panels of every instruction set.
  const packed = () => arrays.floats(64 * Math.ceil(columns / 64) * 32 * Math.ceil(depth / 32), packs)
  if (packs) {
    call.array(linearSlots.packed, packed())
    return [numbers, ...call.operands]
  }
  call.matrix(linearSlots.x, tokens, depth, activations)
  call.matrix(linearSlots.y, tokens, columns, activations, true)
  if (isTransposed === 0 && random() < 0.5) call.matrix(linearSlots.bias, 1, dOut, parameters)
  if (random() < 0.3) call.array(linearSlots.packed, packed())
  return [numbers, ...call.operands]
}

function fold(random: Random, arrays: Arrays): unknown[] {
  const [dOut, rank, experts] = [integer(random, 1, 40), integer(random, 1, 8), integer(random, 1, 5)]
  const layers = integer(random, 0, 3)
  const numbers = new Float64Array(FOLD + SLOT + layers * FOLD_LAYER)
  numbers[foldFields.dOut] = dOut
  numbers[foldFields.rank] = rank
  numbers[foldFields.experts] = experts
  const dtype = integer(random, 0, 2)
  const pitch = dOut + integer(random, 0, 3)
  numbers[FOLD + slotFields.pitch] = pitch
  numbers[FOLD + slotFields.dtype] = dtype
  numbers[FOLD + slotFields.accumulate] = integer(random, 0, 1)
  const db = arrays.typed(dtype, (experts * rank - 1) * pitch + dOut, true)
  const partials: unknown[] = []
  const weights: unknown[] = []
  for (let layer = 0; layer < layers; layer++) {
    const isWeighted = random() < 0.3
    const count = isWeighted ? experts : integer(random, 0, experts)
    const at = FOLD + SLOT + layer * FOLD_LAYER
    numbers[at + foldLayerFields.partials] = count
    numbers[at + foldLayerFields.weightsOffset] = isWeighted ? 0 : 4
    partials.push(arrays.floats(count * rank * dOut))
    weights.push(isWeighted ? null : arrays.floats(1 + count * experts))
  }
  return [numbers, db, partials, weights]
}

function adamw(random: Random, arrays: Arrays): unknown[] {
  const parameters = integer(random, 0, 4)
  const numbers = new Float64Array(ADAMW + parameters * ADAMW_PARAMETER)
  numbers[adamwFields.step] = integer(random, 1, 5)
  numbers[adamwFields.beta1] = 0.9
  numbers[adamwFields.beta2] = 0.999
  numbers[adamwFields.eps] = 1e-8
  numbers[adamwFields.maxNorm] = 1
  const all: unknown[] = []
  for (let i = 0; i < parameters; i++) {
    // A task of the kernel has 16384 elements.
    const count = random() < 0.005 ? integer(random, 16380, 33000) : integer(random, 0, 60)
    const value = integer(random, 0, 2)
    const grad = pick(random, [value, FLOAT32])
    const at = ADAMW + i * ADAMW_PARAMETER
    const [valueBefore, gradBefore] = [integer(random, 0, 3), integer(random, 0, 3)]
    numbers[at + adamwParameterFields.elements] = count
    numbers[at + adamwParameterFields.valueOffset] = valueBefore * (value === FLOAT32 ? 4 : 2)
    numbers[at + adamwParameterFields.valueDtype] = value
    numbers[at + adamwParameterFields.gradOffset] = gradBefore * (grad === FLOAT32 ? 4 : 2)
    numbers[at + adamwParameterFields.gradDtype] = grad
    numbers[at + adamwParameterFields.lr] = 0.01
    numbers[at + adamwParameterFields.weightDecay] = 0.1
    all.push(arrays.typed(value, valueBefore + count, true), arrays.typed(grad, gradBefore + count))
    all.push(arrays.floats(count, true), arrays.floats(count, true))
  }
  const optional = () => (random() < 0.5 ? null : arrays.floats(1, true))
  return [numbers, optional(), optional(), all]
}

/** The tensor of a capsule: windows of a matrix of any type. */
function exported(random: Random, arrays: Arrays): [Float64Array, View, () => void] {
  const [dtype, code] = pick(random, [
    [FLOAT32, 2],
    [FLOAT16, 2],
    [BFLOAT16, 4],
  ])
  const [rows, columns] = [integer(random, 0, 5), integer(random, 0, 5)]
  const [pitch, before] = [columns + integer(random, 0, 3), integer(random, 0, 3)]
  const bytes = dtype === FLOAT32 ? 4 : 2
  const numbers = [0, 0, before * bytes, code, 8 * bytes, integer(random, 0, 1), rows, columns, pitch, 1]
  return [Float64Array.from(numbers), arrays.typed(dtype, before + rows * pitch), () => undefined]
}

const matrixSize = (random: Random) => integer(random, 1, random() < 0.01 ? 150 : 12)

const MAKERS: readonly [weight: number, name: FunctionName, make: (random: Random, arrays: Arrays) => unknown[]][] = [
  [25, 'forward', forward],
  [25, 'backward', backward],
  [2, 'forwardAsync', forward],
  [2, 'backwardAsync', backward],
  [15, 'linear', linear],
  [2, 'linearAsync', linear],
  [5, 'linearPack', (random, arrays) => linear(random, arrays, true)],
  [2, 'linearPackedBytes', (random, arrays) => linear(random, arrays)],
  [15, 'fold', fold],
  [15, 'adamw', adamw],
  [
    2,
    'gramFactor',
    (random, arrays) => {
      const [r, columns] = [matrixSize(random), matrixSize(random)]
      return [arrays.doubles(r * columns), r, columns, arrays.doubles(r * r, true)]
    },
  ],
  [
    2,
    'congruenceEigenvalues',
    (random, arrays) => {
      const [r, columns] = [matrixSize(random), matrixSize(random)]
      return [arrays.doubles(r * r), arrays.doubles(r * columns), r, columns, arrays.doubles(r, true)]
    },
  ],
  [2, 'dlpackExport', exported],
  [1, 'dlpackRead', (random, arrays) => [native.dlpackExport(...exported(random, arrays))]],
  [1, 'dlpackTake', (random, arrays) => [native.dlpackExport(...exported(random, arrays))]],
  [2, 'poolStatistics', (random) => [0, 0, random() < 0.5]],
  [0.5, 'hostAddress', (random, arrays) => [arrays.bytes(integer(random, 0, 9))]],
  [
    0.5,
    'placeHostBlock',
    (random, arrays) => {
      const bytes = integer(random, 0, 99)
      return [arrays.bytes(bytes + 64 + integer(random, 0, 9), true), bytes]
    },
  ],
  [0.5, 'emptyCache', () => []],
  [0.1, 'backends', () => []],
  [0.1, 'processor', () => []],
]

const TOTAL = MAKERS.reduce((sum, [weight]) => sum + weight, 0)

export function validCall(random: Random): Call {
  let at = random() * TOTAL
  const [, name, make] = MAKERS.find(([weight]) => (at -= weight) < 0) ?? MAKERS[0]
  const arrays = new Arrays(random)
  return { name, args: make(random, arrays), blocks: arrays.blocks }
}
