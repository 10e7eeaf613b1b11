/** How the charts show the variation of a measurement, and a disturbance by other processes. */
import * as Plot from '@observablehq/plot'
import { MAX_SPREAD } from '../../../bench/harness/doubts.js'
import type { Key } from '../../../report/legend.js'
import type { Ratio } from '../rows.js'

/** For the caption of a chart with whiskers. */
export const WHISKERS = 'Whiskers: ± half the interquartile range.'

/** A median with the ends of its whisker, which are equal if its spread is not known. */
export interface Spread {
  readonly value: number
  readonly low: number
  readonly high: number
}

/** Logarithmic axes have no zero, so that a whisker ends at a tenth of the median. */
export function spreadOf({ median, spread }: Ratio, unit = 1): Spread {
  const value = median * unit
  return { value, low: value * Math.max(0.1, 1 - (spread ?? 0)), high: value * (1 + (spread ?? 0)) }
}

export const isNoisy = ({ spread }: Ratio): boolean => spread !== null && spread > MAX_SPREAD

/** Something that may be marked. */
interface Disturbed {
  readonly isDisturbed: boolean
}

/** The entry of a legend, if any of the marks is disturbed. */
export const disturbedKey = (marks: readonly Disturbed[]): Key[] =>
  marks.some(({ isDisturbed }) => isDisturbed)
    ? [{ text: 'the machine was probably disturbed', color: 'var(--alert)', mark: '!' }]
    : []

/** The mark, beside or above a point. */
export const disturbedMark = (marks: readonly Disturbed[], place: Plot.TextOptions): Plot.Text =>
  Plot.text(marks, {
    ...place,
    filter: ({ isDisturbed }: Disturbed) => isDisturbed,
    text: () => '!',
    fill: 'var(--alert)',
    stroke: 'var(--surface)',
    strokeWidth: 2.5,
    fontSize: 13,
    fontWeight: 700,
  })
