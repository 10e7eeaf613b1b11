/** The cases of the benchmark: a shape, a data type and a routing. */
import type { Routing } from '../../lib/index.js'
import { type DTypeName, dtypeNames } from './dtypes.js'
import { deviceShapes, type Shape, shapes } from './shapes.js'

export interface Case {
  readonly shape: Shape
  readonly dtype: DTypeName
  readonly routing: Routing
}

export const backendNames = ['cpu', 'cuda', 'webgpu'] as const

/** The backends of the package, and WebGPU, which `backends()` does not list: a device belongs to the program that opens it. */
export type BenchBackend = (typeof backendNames)[number]

export const routings: readonly Routing[] = ['batch', 'sequence', 'token', 'uniform', 'fixed', 'learned']

/** The shape at which data types and routings are compared: large enough for all threads, small enough to be quick. */
const reference: Shape = { tokens: 2048, d: 768, rank: 32, experts: 4 }
/** The constant sizes of the sweeps over r and over M. */
const swept = { tokens: 512, d: 1024, rank: 16, experts: 4 }
const ranks = [4, 8, 16, 32, 64, 128, 256]
const tokenCounts = [1, 8, 64, 512, 4096]

/**
 * Every shape; every data type and every routing at one shape; sweeps over r and over M. All combinations would take an
 * hour and add little information.
 */
function defaultCases(shapes: readonly Shape[], dtype: DTypeName, quick: boolean): Case[] {
  const batch = (shape: Shape): Case => ({ shape, dtype, routing: 'batch' })
  const thinned = <T>(values: readonly T[]): readonly T[] => (quick ? values.filter((_, i) => i % 2 === 0) : values)
  return [
    ...shapes.slice(0, quick ? 2 : undefined).map(batch),
    ...dtypeNames.map((name): Case => ({ shape: reference, dtype: name, routing: 'batch' })),
    ...routings.map((routing): Case => ({ shape: reference, dtype, routing })),
    ...thinned(ranks).map((rank) => batch({ ...swept, rank })),
    ...thinned(tokenCounts).map((tokens) => batch({ ...swept, tokens })),
  ]
}

export interface Selection {
  readonly backend: BenchBackend
  readonly shapes: readonly Shape[]
  readonly dtypes: readonly DTypeName[]
  readonly routings: readonly Routing[]
  readonly quick: boolean
}

/** The default cases, or all combinations of the selected shapes, data types and routings. */
export function selectCases(selection: Selection): Case[] {
  const or = <T>(selected: readonly T[], fallback: readonly T[]): readonly T[] =>
    selected.length > 0 ? selected : fallback
  const defaultShapes = selection.backend === 'cuda' ? [...shapes, ...deviceShapes] : shapes
  // The usual type of training on each backend.
  const defaultType = selection.backend === 'cuda' ? 'bfloat16' : 'float32'
  const hasSelection = [selection.shapes, selection.dtypes, selection.routings].some(({ length }) => length > 0)
  const cases = hasSelection
    ? or(selection.shapes, selection.quick ? defaultShapes.slice(0, 2) : defaultShapes).flatMap((shape) =>
        or<DTypeName>(selection.dtypes, [defaultType]).flatMap((dtype) =>
          or<Routing>(selection.routings, ['batch']).map((routing): Case => ({ shape, dtype, routing })),
        ),
      )
    : defaultCases(defaultShapes, defaultType, selection.quick)
  return [...new Map(cases.map((one) => [JSON.stringify(one), one])).values()]
}
