/** The results by case and pass: one row of the tables, one mark in the charts. */
import type { Report, Result } from '../../bench/harness/report.js'
import type { Method, Pass } from '../../bench/methods/methods.js'
import type { Case } from '../../bench/workload/cases.js'
import { countOf } from '../../lib/base/errors.js'
import type { Doubt } from '../../bench/harness/doubts.js'
import { milliseconds, percent, ratio } from '../../report/format.js'

export interface Row extends Case {
  readonly pass: Pass
  readonly by: ReadonlyMap<Method, Result>
  readonly lily: Result
  readonly lora: Result
}

export function rowsOf(results: readonly Result[]): Row[] {
  const rows = new Map<string, Map<Method, Result>>()
  for (const result of results) {
    const { shape, dtype, routing, pass } = result
    const key = JSON.stringify([shape, dtype, routing, pass])
    const row = rows.get(key) ?? new Map<Method, Result>()
    rows.set(key, row.set(result.method, result))
  }
  return [...rows.values()].flatMap((by) => {
    const lily = by.get('lily')
    const lora = by.get('lora')
    if (lily === undefined || lora === undefined) return []
    const { shape, dtype, routing, pass } = lily
    return [{ shape, dtype, routing, pass, by, lily, lora }]
  })
}

/** The data type and the routing of a case: the title of its section. */
export const sectionTitle = ({ dtype, routing }: Case): string => `${dtype}, ${routing} routing`

/** Groups cases by data type and routing, in the order of measurement. The keys are titles. */
export function sectionsOf<T extends Case>(cases: readonly T[]): Map<string, T[]> {
  const sections = new Map<string, T[]>()
  for (const each of cases) {
    const title = sectionTitle(each)
    sections.set(title, [...(sections.get(title) ?? []), each])
  }
  return sections
}

/** The time of Lily relative to another method. */
export interface Ratio {
  readonly median: number
  /** Half the interquartile range relative to the median; null in reports of earlier versions. */
  readonly spread: number | null
}

export const ratioToLora = ({ lily, lora }: Row): Ratio => ({
  median: lily.ratioToLora,
  spread: lora.lilyRatio?.spread ?? null,
})

/** Ratio of Lily to LoRA with equal trainable parameters; null if that was not measured. */
export function ratioToEqualParameters({ by, lily }: Row): Ratio | null {
  const equal = by.get('lora-equal-parameters')
  return equal === undefined
    ? null
    : (equal.lilyRatio ?? { median: lily.ratioToLora / equal.ratioToLora, spread: null })
}

/** {@link ratioToEqualParameters} as text, with the rank of LoRA. */
export function equalParametersText(row: Row, none: string): string {
  const value = ratioToEqualParameters(row)
  return value === null ? none : `${ratio(value.median)} (r ${row.by.get('lora-equal-parameters')?.rank ?? NaN})`
}

/** Ratio of the two graphs, from the ratios of both to LoRA of the same rank. */
export function graphRatioToLora({ by }: Row): number | null {
  const [lily, lora] = [by.get('lily-graph'), by.get('lora-graph')]
  return lily === undefined || lora === undefined ? null : lily.ratioToLora / lora.ratioToLora
}

/** What an adapter adds to the time of the frozen layer, as a share of it. */
export function overheadOf({ by }: Row, adapter: 'lily' | 'lora'): number | null {
  const ratio = by.get(`${adapter}-layer`)?.ratioToLayer
  return ratio == null ? null : ratio - 1
}

/** A cell, with a mark if the result is in doubt for this reason; the notes of the report explain the mark. */
export const marked = (text: string, result: Result | undefined, doubt: Doubt): string =>
  result?.doubts.includes(doubt) === true ? `${text}!` : text

/** Share of the speed that the roofs allow. */
export const shareOfFloor = ({ floor, median }: Result): number | null => (floor === null ? null : floor / median)

/** {@link shareOfFloor} as text. */
export const shareText = (result: Result, none: string): string =>
  marked(percent(shareOfFloor(result), none), result, 'floor')

/** The time of a method whose spread has no column, in milliseconds. */
export const timeText = (result: Result | undefined): string =>
  marked(milliseconds(result?.median ?? NaN), result, 'spread')

/** Processor, threads, platform and Node version of a run. */
export function machineText({ detail, threads, platform, node }: Report['machine']): string {
  const threadText = threads === null ? [] : [countOf(threads, 'thread')]
  return [detail, ...threadText, platform, `Node ${node}`].join(', ')
}
