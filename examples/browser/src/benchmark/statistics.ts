/** Statistics of samples. */
import { quantile } from 'd3-array'

export interface Quartiles {
  readonly lower: number
  readonly median: number
  readonly upper: number
}

export function quartilesOf(values: readonly number[]): Quartiles {
  const at = (share: number) => quantile(values, share) ?? NaN
  return { lower: at(0.25), median: at(0.5), upper: at(0.75) }
}

/** Half of the distance between the quartiles, relative to the median. */
export const spreadOf = ({ lower, median, upper }: Quartiles): number => (upper - lower) / 2 / median

/**
 * Quartiles of the ratios of two samples of the same round. If the speed of the device drifts, both samples of a round are
 * affected alike, and their ratio stays valid.
 */
export const ratiosOf = (seconds: readonly number[], reference: readonly number[]): Quartiles =>
  quartilesOf(seconds.map((time, round) => time / reference[round]))
