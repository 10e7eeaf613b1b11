/** What is measured: a shape in a data type with a routing. */
import type { BackendName, Routing } from '../lib/index.js'
import { type DTypeName, dtypeNames } from './dtypes.js'
import { deviceShapes, type Shape, shapes } from './shapes.js'

export interface Case {
  readonly shape: Shape
  readonly dtype: DTypeName
  readonly routing: Routing
}

export const routings: readonly Routing[] = ['batch', 'sequence', 'token', 'uniform', 'fixed']

/** Where data types and routings are compared: large enough for all threads, small enough for a quick round. */
const reference: Shape = { tokens: 2048, d: 768, rank: 32, experts: 4 }
/** What the sweeps hold still. */
const swept = { tokens: 512, d: 1024, rank: 16, experts: 4 }
const ranks = [4, 8, 16, 32, 64, 128, 256]
const tokenCounts = [1, 8, 64, 512, 4096]

/**
 * Every shape, then at one shape every data type and every routing, then the cost over r and over M: all combinations
 * would take an hour, and none tells more than one of these does.
 */
function usualCases(shapes: readonly Shape[], dtype: DTypeName, quick: boolean): Case[] {
  const batch = (shape: Shape): Case => ({ shape, dtype, routing: 'batch' })
  const thinned = <T>(values: readonly T[]): readonly T[] => (quick ? values.filter((_, i) => i % 2 === 0) : values)
  return [
    ...shapes.slice(0, quick ? 2 : undefined).map(batch),
    ...dtypeNames.map((each): Case => ({ shape: reference, dtype: each, routing: 'batch' })),
    ...routings.map((routing): Case => ({ shape: reference, dtype, routing })),
    ...thinned(ranks).map((rank) => batch({ ...swept, rank })),
    ...thinned(tokenCounts).map((tokens) => batch({ ...swept, tokens })),
  ]
}

export interface Choice {
  readonly backend: BackendName
  readonly shapes: readonly Shape[]
  readonly dtypes: readonly DTypeName[]
  readonly routings: readonly Routing[]
  readonly quick: boolean
}

/** The usual cases, or all combinations of what was chosen. */
export function chooseCases(choice: Choice): Case[] {
  const or = <T>(chosen: readonly T[], others: readonly T[]): readonly T[] => (chosen.length > 0 ? chosen : others)
  const usual = choice.backend === 'cpu' ? shapes : [...shapes, ...deviceShapes]
  // What models are trained in there.
  const dtype = choice.backend === 'cpu' ? 'float32' : 'bfloat16'
  const isChosen = [choice.shapes, choice.dtypes, choice.routings].some(({ length }) => length > 0)
  const all = isChosen
    ? or(choice.shapes, choice.quick ? usual.slice(0, 2) : usual).flatMap((shape) =>
        or<DTypeName>(choice.dtypes, [dtype]).flatMap((dtype) =>
          or<Routing>(choice.routings, ['batch']).map((routing): Case => ({ shape, dtype, routing })),
        ),
      )
    : usualCases(usual, dtype, choice.quick)
  return [...new Map(all.map((each) => [JSON.stringify(each), each])).values()]
}
