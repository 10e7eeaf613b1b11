/** Results that a load of other processes has probably disturbed. */
import type { Timing } from './sampling.js'

/** `floor`: the time is less than the floor. `spread`: the spread of the samples is larger than MAX_SPREAD. */
export type Doubt = 'floor' | 'spread'

/** On idle machines the spread is at most a fifth (`bench/results`). */
export const MAX_SPREAD = 0.25

export function doubtsOf({ median, spread }: Timing, floor: number | null): Doubt[] {
  return [
    ...(floor !== null && median < floor ? (['floor'] as const) : []),
    ...(spread > MAX_SPREAD ? (['spread'] as const) : []),
  ]
}

/** Explains the mark of the tables. */
export function notesOfDoubts(results: readonly { readonly doubts: readonly Doubt[] }[]): string[] {
  const count = (doubt: Doubt): number => results.filter(({ doubts }) => doubts.includes(doubt)).length
  const [floor, spread] = [count('floor'), count('spread')]
  return [
    ...(floor > 0
      ? [
          `!: ${floor} of ${results.length} times are less than their floor, above 100 %: the machine was slower while its ` +
            'roofs were measured, probably because of other processes; these shares say nothing, run it again on an idle machine',
        ]
      : []),
    ...(spread > 0
      ? [
          `!: ${spread} of ${results.length} times have a spread of more than ±${MAX_SPREAD * 100} %, probably because of other ` +
            'processes; run it again on an idle machine',
        ]
      : []),
  ]
}
