/** Which rows of x each adapter of a call has (docs/math.md, "Adapters per row"). */
import { describe, fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import type { Operand } from '../memory/operand.js'
import { checkMask, checkOffsets, onDevice, type SmallOperand } from './small-operands.js'
import type { ForwardSettings } from './read.js'

/** What has one adapter: the sequences of a call, or its tokens. */
export interface Segments {
  /** [count + 1]: the first row of each; null: each is one row. */
  readonly offsets: Int32Array | null
  readonly count: number
}

/** The rows of one adapter. */
export interface Rows {
  /** Its rows among the listed ones: `count` of them from `start` on. */
  readonly start: number
  readonly count: number
  /** The first row of x if they follow each other in x, or if there are none; otherwise -1. */
  readonly first: number
  /** [G + 1], from 0 to count: its sequences, the empty ones too; null: it does not divide its rows. */
  readonly offsets: Int32Array | null
}

/** The rows of all adapters. */
export interface Assignment {
  /** The operand `index` of the call: the listed rows, adapter by adapter; the offsets of those that have any; the others. */
  readonly index: Int32Array
  /** By adapter. */
  readonly rows: readonly Rows[]
  /** The number of rows that have an adapter, and of those that have none. */
  readonly listed: number
  readonly rest: number
}

/** The segments of x: its sequences, if it is 3-D or has `sequenceOffsets`, otherwise its tokens. */
export function segmentsOf(
  { shape, rows }: Operand,
  { sequenceOffsets }: Pick<ForwardSettings, 'sequenceOffsets'>,
): Segments {
  if (sequenceOffsets !== null) {
    refuseOnDevice('sequenceOffsets', sequenceOffsets)
    const offsets = checkOffsets(sequenceOffsets, rows).memory as Int32Array
    return { offsets, count: offsets.length - 1 }
  }
  if (shape.length !== 3) return { offsets: null, count: rows }
  const [count, length] = shape
  const offsets = new Int32Array(count + 1)
  for (let g = 1; g <= count; g++) offsets[g] = g * length
  return { offsets, count }
}

/** Checks that there is one element for each segment of x. */
export function checkPerSegment(
  argument: string,
  shape: readonly number[],
  what: string,
  { count, offsets }: Segments,
  x: Operand,
): void {
  if (shape.length === 1 && shape[0] === count) return
  const per = offsets === null ? 'token' : 'sequence'
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected one ${what} per ${per}, [${count}] (x has shape ${shapeText(x.shape)}), got ${shapeText(shape)}`,
  )
}

/** Checks the factors of the segments. */
export function checkScale(operand: SmallOperand, segments: Segments, x: Operand): Float32Array {
  refuseOnDevice('scale', operand)
  checkPerSegment('scale', operand.shape, 'factor', segments, x)
  const factors = new Float32Array(operand.numbers)
  for (let g = 0; g < factors.length; g++) {
    if (Number.isFinite(factors[g])) continue
    fail('ERR_LILY_ARGUMENT', 'scale', `element ${g} must be a finite float32, got ${describe(operand.numbers[g])}`)
  }
  return factors
}

/** Refuses a small operand in device memory: the call is planned from its numbers. */
export function refuseOnDevice(argument: string, operand: SmallOperand | null): void {
  if (operand === null || onDevice(operand) === null) return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'expected an array on the host, because a call with an adapter per row is planned from it; pass an array',
  )
}

/**
 * Sorts the rows by adapter, ascending in each.
 *
 * @param of [segments.count]: the adapter of each segment, -1 for none
 * @param divides of each adapter: whether its segments are sequences that its routing keeps apart
 */
export function assign(of: ArrayLike<number>, { offsets }: Segments, divides: readonly boolean[]): Assignment {
  const adapters = divides.length
  const counts = zeros(adapters + 1) // the last one: rows without an adapter
  const sequences = zeros(adapters + 1)
  for (let g = 0; g < of.length; g++) {
    const k = of[g] < 0 ? adapters : of[g]
    counts[k] += offsets === null ? 1 : offsets[g + 1] - offsets[g]
    sequences[k]++
  }
  let listed = 0
  let indices = 0
  for (let k = 0; k < adapters; k++) {
    listed += counts[k]
    if (divides[k]) indices += sequences[k] + 1
  }
  const rest = counts[adapters]
  const index = new Int32Array(listed + indices + rest)
  // Where the next row of each adapter goes, and the next offset.
  const next = zeros(adapters + 1)
  const nextOffset = zeros(adapters)
  for (let k = 0, row = 0, offset = listed; k < adapters; k++) {
    next[k] = row
    row += counts[k]
    nextOffset[k] = offset + 1
    if (divides[k]) offset += sequences[k] + 1
  }
  next[adapters] = listed + indices
  for (let g = 0, row = 0; g < of.length; g++) {
    const k = of[g] < 0 ? adapters : of[g]
    const end = offsets === null ? g + 1 : offsets[g + 1]
    let at = next[k]
    while (row < end) index[at++] = row++
    next[k] = at
    if (k < adapters && divides[k]) index[nextOffset[k]++] = at
  }
  const rows = new Array<Rows>(adapters)
  for (let k = 0; k < adapters; k++) {
    const [end, count] = [next[k], counts[k]]
    const start = end - count
    const isRun = count === 0 || index[end - 1] - index[start] === count - 1
    const first = count === 0 ? 0 : isRun ? index[start] : -1
    let ownOffsets: Int32Array | null = null
    if (divides[k]) {
      ownOffsets = index.subarray(nextOffset[k] - sequences[k] - 1, nextOffset[k])
      // So far they are positions among the listed rows.
      for (let i = 1; i < ownOffsets.length; i++) ownOffsets[i] -= start
    }
    rows[k] = { start, count, first, offsets: ownOffsets }
  }
  return { index, rows, listed, rest }
}

/** An array of few numbers takes less time than a typed array. */
function zeros(count: number): number[] {
  return new Array<number>(count).fill(0)
}

/** The flags of the mask for each listed row; null: no mask. */
export function gatherMask(mask: SmallOperand | null, x: Operand, { index, listed }: Assignment): Uint8Array | null {
  if (mask === null) return null
  refuseOnDevice('mask', mask)
  const flags = checkMask(mask, x.rows, x.shape).memory as Uint8Array
  const gathered = new Uint8Array(listed)
  for (let i = 0; i < listed; i++) gathered[i] = flags[index[i]]
  return gathered
}

/** The factors [segments.count] for each listed row; null: all are 1. */
export function gatherScale(
  factors: Float32Array | null,
  { offsets }: Segments,
  { index, listed }: Assignment,
): Float32Array | null {
  if (factors === null) return null
  let each = factors
  if (offsets !== null) {
    each = new Float32Array(offsets[offsets.length - 1])
    for (let g = 0; g < factors.length; g++) each.fill(factors[g], offsets[g], offsets[g + 1])
  }
  const gathered = new Float32Array(listed)
  for (let i = 0; i < listed; i++) gathered[i] = each[index[i]]
  return gathered
}
