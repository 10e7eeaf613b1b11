/** Checks that the arrays of an optimiser do not overlap: a parameter that is listed twice would be updated twice. */
import { fail } from '../base/errors.js'
import type { Operand } from '../memory/operand.js'
import { exchangedCount } from '../memory/host-memory.js'
import { startOf } from '../memory/space.js'
import type { Moments } from '../checkpoint/optimiser-state.js'
import type { ParameterOperands } from './parameters.js'

/** The bytes of one array, which is contiguous. Its name is put together only for an error. */
interface Range {
  readonly start: number
  readonly end: number
  readonly name: string
  /** Null: the array is the optimiser's own, called `name`; an error is then about the other array. */
  readonly of: 'value' | 'grad' | null
}

/** Ranges by the space in which their starts can be compared. */
export type Ranges = ReadonlyMap<unknown, readonly Range[]>

/** Ranges of the moments with this norm; they go with the moments, which load() replaces. */
const known = new WeakMap<ReadonlyMap<string, Moments>, Made>()

interface Made {
  readonly norm: Operand | null
  /** The spaces were found at this {@link exchangedCount}. */
  readonly count: number
  readonly ranges: Ranges
}

/** The ranges of the arrays that an optimiser writes beside the values. They are made once: these arrays do not move. */
export function stateRanges(moments: ReadonlyMap<string, Moments>, norm: Operand | null): Ranges {
  const made = known.get(moments)
  const count = exchangedCount
  if (made?.norm === norm && made.count === count) return made.ranges
  const ranges = new Map<unknown, Range[]>()
  for (const [name, { expAvg, expAvgSq }] of moments) {
    add(ranges, expAvg, `the optimiser's expAvg of ${name}`, null)
    add(ranges, expAvgSq, `the optimiser's expAvgSq of ${name}`, null)
  }
  if (norm !== null) add(ranges, norm, 'gradNorm', null)
  // Each step sorts them again, together with the parameters' ranges, which takes less time if they are in order.
  for (const inSpace of ranges.values()) inSpace.sort(byStart)
  known.set(moments, { norm, count, ranges })
  return ranges
}

/** Checks that the arrays of the parameters overlap neither each other nor the optimiser's own. */
export function checkNoOverlap(parameters: readonly ParameterOperands[], state: Ranges): void {
  const ranges = new Map<unknown, Range[]>()
  for (const { name, value, grad } of parameters) {
    add(ranges, value, name, 'value')
    add(ranges, grad, name, 'grad')
  }
  for (const [space, inSpace] of ranges) {
    const own = state.get(space)
    if (own !== undefined) checkNeighbours(inSpace.concat(own))
    else if (inSpace.length > 1) checkNeighbours(inSpace)
  }
}

function add(ranges: Map<unknown, Range[]>, operand: Operand, name: string, of: Range['of']): void {
  const { space, memory, byteOffset, byteLength } = operand
  if (byteLength === 0) return
  const start = startOf(memory) + byteOffset
  const range = { start, end: start + byteLength, name, of }
  const inSpace = ranges.get(space)
  if (inSpace === undefined) ranges.set(space, [range])
  else inSpace.push(range)
}

/** Sorts ranges by address. If any two overlap, then two neighbours do, so only neighbours are compared. */
function checkNeighbours(ranges: Range[]): void {
  ranges.sort(byStart)
  for (let i = 1; i < ranges.length; i++) {
    const [before, after] = [ranges[i - 1], ranges[i]]
    if (before.end <= after.start) continue
    const [given, other] = after.of === null ? [before, after] : [after, before]
    fail(
      'ERR_LILY_ARGUMENT',
      nameOf(given),
      `its memory overlaps that of ${nameOf(other)}; list a shared parameter once, and give each its own gradient`,
    )
  }
}

function byStart(a: Range, b: Range): number {
  return a.start - b.start
}

function nameOf({ name, of }: Range): string {
  return of === null ? name : `${name}.${of}`
}
