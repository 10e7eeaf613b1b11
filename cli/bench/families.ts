/** Which of the measured rows make a chart: those that differ in one thing alone. */
import type { Row } from './rows.js'

/** The part of a row that a family varies. */
export interface Axis {
  readonly of: (row: Row) => string | number
  /** Everything else that says what was measured. */
  readonly rest: (row: Row) => unknown
}

export const axes = {
  rank: {
    of: ({ shape }) => shape.rank,
    rest: ({ shape: { tokens, d, experts }, dtype, routing }) => [tokens, d, experts, dtype, routing],
  },
  tokens: {
    of: ({ shape }) => shape.tokens,
    rest: ({ shape: { d, rank, experts }, dtype, routing }) => [d, rank, experts, dtype, routing],
  },
  dtype: { of: ({ dtype }) => dtype, rest: ({ shape, routing }) => [shape, routing] },
  routing: { of: ({ routing }) => routing, rest: ({ shape, dtype }) => [shape, dtype] },
} as const satisfies Record<string, Axis>

/** The rows of the family with the most members along an axis; none where it has fewer than `least`. */
export function familyAlong({ of, rest }: Axis, rows: readonly Row[], least: number): Row[] {
  const families = new Map<string, Row[]>()
  for (const row of rows) {
    const key = JSON.stringify(rest(row))
    families.set(key, [...(families.get(key) ?? []), row])
  }
  const members = (family: readonly Row[]): number => new Set(family.map(of)).size
  const [largest = []] = [...families.values()].sort((one, other) => members(other) - members(one))
  return members(largest) < least ? [] : largest
}
