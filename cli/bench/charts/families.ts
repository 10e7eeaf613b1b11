/** Selects the rows of a chart: rows that differ in one property only. */
import type { Row } from '../rows.js'

/** The property in which the rows of a family differ. */
export interface Axis {
  readonly value: (row: Row) => string | number
  /** All other properties of the case, in which the rows of a family agree. */
  readonly fixed: (row: Row) => unknown
}

export const axes = {
  rank: {
    value: ({ shape }) => shape.rank,
    fixed: ({ shape: { tokens, d, experts }, dtype, routing }) => [tokens, d, experts, dtype, routing],
  },
  tokens: {
    value: ({ shape }) => shape.tokens,
    fixed: ({ shape: { d, rank, experts }, dtype, routing }) => [d, rank, experts, dtype, routing],
  },
  dtype: { value: ({ dtype }) => dtype, fixed: ({ shape, routing }) => [shape, routing] },
  routing: { value: ({ routing }) => routing, fixed: ({ shape, dtype }) => [shape, dtype] },
} as const satisfies Record<string, Axis>

/** The rows of the family with the most values along an axis; empty if it has fewer than `min`. */
export function familyAlong({ value, fixed }: Axis, rows: readonly Row[], min: number): Row[] {
  const families = new Map<string, Row[]>()
  for (const row of rows) {
    const key = JSON.stringify(fixed(row))
    families.set(key, [...(families.get(key) ?? []), row])
  }
  const members = (family: readonly Row[]): number => new Set(family.map(value)).size
  const [largest = []] = [...families.values()].sort((a, b) => members(b) - members(a))
  return members(largest) < min ? [] : largest
}
