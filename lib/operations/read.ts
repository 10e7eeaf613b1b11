/**
 * The first phase of a call: every operand and every option is read once. Getters of the caller run only here, so that
 * they cannot change what the later phases have checked.
 */
import { fail } from '../base/errors.js'
import { type Known, readChoice, readFlag, readFloat32, readProperties } from '../base/options.js'
import type { backwardSlots } from '../binding/slots.js'
import * as tables from '../binding/tables.js'
import type { Operand } from '../memory/operand.js'
import type { StreamOption } from '../memory/placement.js'
import { resolve, resolveIfGiven } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import { type Dropout, readDropout } from './dropout.js'
import { readWeight, type WeightOperand } from './linear-problem.js'
import { Output } from './output.js'
import { type Activation, type Pool, type Precision, type Routing, ROUTINGS } from './problem.js'
import { readMask, readSmallOperand, type SmallOperand } from './small-operands.js'

const OFFSETS = ['int32'] as const
const WEIGHTS = ['float32'] as const
export const POOLS = ['probabilities', 'logits'] as const
export const ACTIVATIONS = ['none', 'relu'] as const
export const PRECISIONS = ['default', 'high', 'tf32'] as const

/** Operands of a forward call. */
export interface ForwardInputs {
  readonly x: Operand
  /** The frozen layer below the adapter; null: the adapter alone. */
  readonly weight: WeightOperand | null
  readonly bias: Operand | null
  readonly a: Operand
  readonly router: Operand | null
  readonly b: Operand
  readonly y: Output | null
}

/** The modes of a forward call. `N` is null where each may be left out. */
export interface Modes<N = never> {
  readonly routing: Routing | N
  readonly pool: Pool | N
  readonly activation: Activation | N
}

/** Options of a forward call. `N` is null where the modes may be left out. */
export interface ForwardSettings<N = never> extends Modes<N> {
  readonly scaling: number
  readonly precision: Precision
  readonly mask: SmallOperand | null
  readonly sequenceOffsets: SmallOperand | null
  readonly weights: SmallOperand | null
  readonly dropout: Dropout | null
  /** Given for a call with an adapter for each row. */
  readonly rankOffsets: SmallOperand | null
  readonly adapterOf: SmallOperand | null
  readonly scale: SmallOperand | null
  readonly save: boolean
  readonly accumulate: boolean
  readonly stream: StreamOption
}

/** What each adapter of a call has of its own. */
export type OwnSettings = Modes & Pick<ForwardSettings, 'scaling' | 'weights'>

/** What the problem of a call depends on. */
export type ProblemSettings = OwnSettings & Pick<ForwardSettings, 'precision' | 'mask' | 'sequenceOffsets' | 'dropout'>

type OutputRow<Row> = Row extends readonly [infer Name, unknown, unknown, unknown, 'output'] ? Name : never
export type GradientName = Exclude<OutputRow<(typeof backwardSlots)[number]>, 'deferredDb'>
/** The slots of the gradients that the caller may give, in the order of x, a, router, b and weights. */
export const GRADIENT_SLOTS = tables.backward.slots.filter(({ use, name }) => use === 'output' && name !== 'deferredDb')
export const GRADIENTS = GRADIENT_SLOTS.map(({ name }) => name as GradientName)

/** Operands of a backward call: the gradients that the caller gives. */
export interface BackwardInputs extends Readonly<Record<GradientName, Output | null>> {
  readonly dy: Operand
  /** In the place of the x of forward; null: that x. */
  readonly x: Operand | null
}

/** Options of a backward call. `D` is null where `deferB` may be left out. */
export interface BackwardSettings<D = boolean> {
  readonly needs: Readonly<Record<GradientName, boolean>>
  readonly deferB: boolean | D
  readonly retain: boolean
  /** Whether to add to a given dx. */
  readonly accumulate: boolean
  /** Whether to add to the given gradients of parameters. */
  readonly accumulateParameters: boolean
  readonly stream: StreamOption
}

/** Given weights are no parameters, so their gradient is computed only if it is asked for. */
const DEFAULT_NEEDS = byGradient((name) => name !== 'dWeights')

/** @param of is called with the name and the index of each gradient, in order */
export function byGradient<T>(of: (name: GradientName, index: number) => T): Readonly<Record<GradientName, T>> {
  const all: Partial<Record<GradientName, T>> = {}
  for (let i = 0; i < GRADIENTS.length; i++) all[GRADIENTS[i]] = of(GRADIENTS[i], i)
  return all as Record<GradientName, T>
}

export function readForwardInputs(operands: object, known: Known): ForwardInputs {
  return readProperties('operands', operands, known, ({ x, weight, bias, a, router, b, y }) => ({
    x: resolve('x', x),
    weight: weight === undefined ? null : readWeight(weight),
    bias: bias === undefined ? null : resolve('bias', bias),
    a: resolve('a', a),
    router: router === undefined ? null : resolve('router', router),
    b: resolve('b', b),
    y: Output.of('y', y),
  }))
}

/** PEFT's defaults. */
export const DEFAULT_MODES = { routing: 'batch', pool: 'probabilities', activation: 'none' } as const

/**
 * Reads the options of a forward call. LoRA has fewer options than Lily; the others get their defaults.
 *
 * @param modes default modes
 */
export function readForwardOptions<N>(options: object, known: Known, modes: Modes<N>): ForwardSettings<N> {
  return readProperties('options', options, known, (given) => {
    const { mask, sequenceOffsets, weights, rankOffsets, adapterOf, scale } = given
    return {
      scaling: readFloat32('scaling', given.scaling, 1),
      routing: readChoice('routing', given.routing, ROUTINGS, modes.routing),
      pool: readChoice('pool', given.pool, POOLS, modes.pool),
      activation: readChoice('activation', given.activation, ACTIVATIONS, modes.activation),
      precision: readChoice('precision', given.precision, PRECISIONS, 'default'),
      mask: mask === undefined ? null : readMask(mask),
      sequenceOffsets:
        sequenceOffsets === undefined ? null : readSmallOperand('sequenceOffsets', sequenceOffsets, OFFSETS),
      weights: weights === undefined ? null : readSmallOperand('weights', weights, WEIGHTS),
      dropout: readDropout(given.dropout),
      rankOffsets: rankOffsets === undefined ? null : readSmallOperand('rankOffsets', rankOffsets, OFFSETS),
      adapterOf: adapterOf === undefined ? null : readSmallOperand('adapterOf', adapterOf, OFFSETS),
      scale: scale === undefined ? null : readScale(scale),
      save: readFlag('save', given.save, true),
      accumulate: readFlag('accumulate', given.accumulate, true),
      stream: readStream(given.stream, given.encoder),
    }
  })
}

function readScale(value: unknown): SmallOperand {
  if (typeof value !== 'number') return readSmallOperand('scale', value, WEIGHTS)
  return fail('ERR_LILY_ARGUMENT', 'scale', `expected a factor for each row, got ${value}; pass one factor as scaling`)
}

export function readBackwardInputs(operands: object, known: Known): BackwardInputs {
  return readProperties('operands', operands, known, (given) => ({
    dy: resolve('dy', given.dy),
    x: resolveIfGiven('x', given.x),
    ...byGradient((name) => Output.of(name, given[name])),
  }))
}

export function readBackwardSettings(options: object, known: Known, knownNeeds: Known): BackwardSettings {
  return readBackwardOptions(options, known, knownNeeds, false)
}

/** @param deferB default of the option `deferB` */
export function readBackwardOptions<D>(
  options: object,
  known: Known,
  knownNeeds: Known,
  deferB: D,
): BackwardSettings<D> {
  return readProperties('options', options, known, (given) => {
    const accumulate = readFlag('accumulate', given.accumulate, true)
    return {
      needs: readNeeds(given.needs, knownNeeds),
      deferB: readFlag('deferB', given.deferB, deferB),
      retain: readFlag('retain', given.retain, false),
      accumulate,
      accumulateParameters: accumulate,
      stream: readStream(given.stream, given.encoder),
    }
  })
}

function readNeeds(needs: unknown, known: Known): Readonly<Record<GradientName, boolean>> {
  if (needs === undefined) return DEFAULT_NEEDS
  return readProperties('needs', needs, known, (given) =>
    byGradient((name) => readFlag(`needs.${name}`, given[name], DEFAULT_NEEDS[name])),
  )
}
