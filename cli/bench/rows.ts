/** The results by case and pass: a line of the table, a mark in a chart. */
import type { Case } from '../../bench/cases.js'
import type { Method, Pass, Result } from '../../bench/report.js'

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

/** By data type and routing, in the order in which they were first measured. */
export function sectionsOf(rows: readonly Row[]): Map<string, Row[]> {
  const sections = new Map<string, Row[]>()
  for (const row of rows) {
    const title = `${row.dtype}, ${row.routing} routing`
    sections.set(title, [...(sections.get(title) ?? []), row])
  }
  return sections
}
