/** Runs a case through the public API. Child processes use this file, too, so it does not import the test runner. */
import type { LoraBackwardOptions, Tensor } from '../../lib/index.js'
import { foldB, lilyBackward, lilyForward, loraBackward, loraForward } from './backend.js'
import type { Case } from './cases.js'
import { type Float, roundAll, type Types, unpack } from './dtypes.js'
import { type Layout, Operand } from './operands.js'
import { gaussian, randomFrom } from './random.js'

export const GRADIENTS = ['dx', 'da', 'dRouter', 'db', 'dWeights'] as const
export type GradientName = (typeof GRADIENTS)[number]
export type OutputName = 'y' | GradientName
export type OperandName = 'x' | 'a' | 'router' | 'b' | 'dy' | OutputName
export type Values = Partial<Record<OutputName | 'hidden' | 'probabilities' | 'weights', Float32Array>>

/** Variations of a call that must not change its results. */
export interface How {
  layout?: (name: OperandName) => Layout
  /** Without `layout`: rows begin at multiples of this number of elements. */
  pitchMultiple?: number
  /** New outputs, or given ones that are accumulated into or overwritten. */
  outputs?: 'new' | 'add' | 'overwrite'
  needs?: Partial<Record<GradientName, boolean>>
  deferB?: boolean
  /** Whether the sequence offsets are in device memory. */
  hasDeviceOffsets?: boolean
  /** Whether the state of dropout is in memory of a CUDA device. */
  hasDeviceState?: boolean
  /** Leading dimensions of x, y, dy and dx; with sequence and fixed routing the first may replace the offsets. */
  leading?: number[]
}

export interface Result {
  values: Values
  /** Contents of the given outputs before the call. */
  old: Partial<Record<OutputName, Float32Array>>
  /** Inputs that were written to, operands whose padding was, and a state of dropout that has not advanced by one. */
  damaged: string[]
}

export function wantedGradients({ router, routing }: Case, needs: How['needs'] = {}): GradientName[] {
  return GRADIENTS.filter((name) => {
    if (name === 'dWeights') return routing === 'fixed' && needs.dWeights === true
    return needs[name] !== false && (name !== 'dRouter' || router !== undefined)
  })
}

/** The types of the operands. */
export function operandTypes(types: Types): Record<OperandName, Float> {
  const { activations = 'float32', parameters = activations, gradients = parameters } = types
  return {
    x: activations,
    y: activations,
    dy: activations,
    dx: activations,
    a: parameters,
    router: parameters,
    b: parameters,
    da: gradients,
    dRouter: gradients,
    db: gradients,
    dWeights: 'float32',
  }
}

/** Contents of a given output before the call. Overwritten outputs must not be read; NaN would propagate. */
export function oldValues(outputs: 'add' | 'overwrite', dtype: Float, rows: number, cols: number): Float32Array {
  if (outputs === 'overwrite') return new Float32Array(rows * cols).fill(NaN)
  return roundAll(dtype, gaussian(randomFrom(rows + cols), rows * cols))
}

/** Rows and columns of the matrix b. */
export function sizesOfB({ routing, dOut, rank, experts }: Case): [number, number] {
  return routing === 'lora' ? [dOut, rank] : [experts * rank, dOut]
}

/** Columns of the router, or of the logits of a learned mixture. */
export const columnsOfRouter = ({ routing, rank }: Case): number => (routing === 'learned' ? 1 : rank)

/** The state that a call of a case draws from; undefined without dropout. */
function stateOf({ dropout }: Case, onDevice = false) {
  if (dropout === undefined) return { isAdvanced: () => true }
  const { rate, draw } = dropout
  const data = draw.slice()
  const option = { rate, state: onDevice ? { data, shape: [4] } : data }
  const position = (words: Int32Array) => new BigUint64Array(words.slice(2).buffer)[0]
  const isAdvanced = () =>
    data[0] === draw[0] && data[1] === draw[1] && position(data) === BigInt.asUintN(64, position(draw) + 1n)
  return { option, isAdvanced }
}

/** The operands that a call gets, in the layouts of `how`. */
class GivenOperands {
  readonly old: Result['old'] = {}
  readonly outputs = new Map<OutputName, Operand>()
  readonly #inputs = new Map<OperandName, Operand>()
  readonly #types: Record<OperandName, Float>

  constructor(
    c: Case,
    private readonly how: How,
  ) {
    this.#types = operandTypes(c)
  }

  input(name: OperandName, rows: number, cols: number, values: ArrayLike<number>): Operand {
    const operand = this.#operand(name, rows, cols, values)
    this.#inputs.set(name, operand)
    return operand
  }

  /** An output; undefined if the call makes a new one. */
  output(name: OutputName, rows: number, cols: number): Operand | undefined {
    const { outputs = 'new' } = this.how
    if (outputs === 'new') return undefined
    const values = oldValues(outputs, this.#types[name], rows, cols)
    const operand = this.#operand(name, rows, cols, values)
    this.outputs.set(name, operand)
    this.old[name] = values
    return operand
  }

  /** Inputs that were written to, and outputs whose padding was. */
  damaged(): string[] {
    const inputs = [...this.#inputs].filter(([, operand]) => !operand.isUnchanged())
    const outputs = [...this.outputs].filter(([, operand]) => !operand.isPaddingUnchanged())
    return [...inputs, ...outputs].map(([name]) => name)
  }

  #operand(name: OperandName, rows: number, cols: number, values: ArrayLike<number>): Operand {
    const { layout, pitchMultiple = 1 } = this.how
    const padded = { gap: Math.ceil(cols / pitchMultiple) * pitchMultiple - cols, margin: 0 }
    return new Operand(this.#types[name], rows, cols, values, layout?.(name) ?? padded)
  }
}

export async function run(c: Case, how: How = {}): Promise<Result> {
  const { routing, tokens, dIn, dOut, rank, experts, scaling, activation, precision } = c
  const { outputs = 'new', deferB = false, leading = [], needs } = how
  const isLora = routing === 'lora'
  const given = new GivenOperands(c, how)
  const [bRows, bCols] = sizesOfB(c)
  const bShape = isLora ? [] : [experts, rank]
  const x = given.input('x', tokens, dIn, c.x).tensor(...leading)
  const a = given.input('a', rank, dIn, c.a).tensor()
  const b = given.input('b', bRows, bCols, c.b).tensor(...bShape)
  const router = c.router && given.input('router', experts, columnsOfRouter(c), c.router).tensor()
  const dy = given.input('dy', tokens, dOut, c.dy).tensor(...leading)
  const y = given.output('y', tokens, dOut)?.tensor(...leading)
  const wanted = wantedGradients(c, needs)
  const gradient = (name: GradientName, rows: number, cols: number) =>
    wanted.includes(name) ? given.output(name, rows, cols) : undefined
  const dx = gradient('dx', tokens, dIn)?.tensor(...leading)
  const da = gradient('da', rank, dIn)?.tensor()
  const dRouter = gradient('dRouter', experts, columnsOfRouter(c))?.tensor()
  const db = gradient('db', bRows, bCols)?.tensor(...bShape)
  const dWeights = gradient('dWeights', (c.weights?.length ?? 0) / experts, experts)?.tensor()
  const { option: dropout, isAdvanced } = stateOf(c, how.hasDeviceState)

  const accumulate = outputs !== 'overwrite'
  const backwardOptions = { accumulate, ...(needs && { needs }) }
  const values: Values = {}
  const keep = (name: keyof Values, tensor: Tensor | null | undefined) => {
    if (tensor) values[name] = unpack(tensor.dtype, tensor.data)
  }

  if (isLora) {
    const { y: result, saved } = await loraForward({ x, a, b, y }, { scaling, accumulate, precision, dropout })
    keep('y', result)
    keep('hidden', saved.hidden)
    const gradients = await loraBackward({ dy, dx, da, db }, saved, backwardOptions as LoraBackwardOptions)
    for (const name of ['dx', 'da', 'db'] as const) keep(name, gradients[name])
    saved.dispose()
  } else {
    const offsets = leading.length > 1 && (routing === 'sequence' || routing === 'fixed') ? undefined : c.offsets
    const { pool, mask } = c
    const sequenceOffsets = how.hasDeviceOffsets && offsets ? { data: offsets, shape: [offsets.length] } : offsets
    const options = { scaling, activation, precision, accumulate, routing, pool, mask, sequenceOffsets, dropout }
    const weights = c.weights && { data: c.weights, shape: [c.weights.length / experts, experts] }
    const { y: result, saved } = await lilyForward({ x, a, router, b, y }, { ...options, weights })
    keep('y', result)
    keep('hidden', saved.hidden)
    keep('probabilities', saved.probabilities)
    keep('weights', saved.weights)
    const toBackward = deferB ? { dy, dx, da, dRouter, dWeights } : { dy, dx, da, dRouter, db, dWeights }
    const gradients = await lilyBackward(toBackward, saved, { ...backwardOptions, deferB })
    for (const name of GRADIENTS) keep(name, gradients[name])
    if (deferB && wanted.includes('db')) keep('db', await foldB(saved, db, { accumulate }))
    saved.dispose()
  }

  for (const [name, operand] of given.outputs) values[name] = operand.values()
  return { values, old: given.old, damaged: [...given.damaged(), ...(isAdvanced() ? [] : ['dropout.state'])] }
}
