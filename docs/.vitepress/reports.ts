/** Pages of the reports in bench/results that are JSON only. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readReports } from '../../cli/bench/read-reports.js'

const FOLDER = 'bench/results'

type Json = string | number | boolean | null | Json[] | { readonly [key: string]: Json }
type Properties = Record<string, Json>

/** Their names, without the ending. A report of bench:peers and bench:linear is Markdown, which is a page already. */
export function reportNames(root: string): string[] {
  const files = readdirSync(join(root, FOLDER))
  const names = files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -'.json'.length))
  return names.filter((name) => !files.includes(`${name}.md`))
}

/** The Markdown of the page of a report. */
export function reportPage(root: string, name: string): string {
  const file = `${FOLDER}/${name}.json`
  const text = readFileSync(join(root, file), 'utf8')
  const json = JSON.parse(text) as Json
  const body = Array.isArray(json)
    ? [
        ...readReports(text).map(({ verdict, command }) => `${verdict}\n\n\`${command}\``),
        `## Charts\n\n<!-- charts: ${file} -->`,
        `## Results\n\n<!-- tables: ${file} -->`,
      ]
    : pageOf(json as Properties)
  return [`# ${name}`, `<a href="./${name}.json" download>All numbers as JSON</a>`, ...body].join('\n\n')
}

/** Values as a list, and arrays of objects as tables. */
function pageOf(report: Properties): string[] {
  const tables = Object.entries(report).filter(([, value]) => isTable(value))
  const values = Object.entries(flat(Object.fromEntries(Object.entries(report).filter(([, value]) => !isTable(value)))))
  return [
    values
      .filter(([, value]) => cellOf(value) !== '')
      .map(([key, value]) => `- ${key}: ${cellOf(value)}`)
      .join('\n'),
    ...tables.flatMap(([key, value]) => [`## ${key}`, tableOf((value as Properties[]).flatMap(rowsOf))]),
  ]
}

const isTable = (value: Json): boolean => Array.isArray(value) && typeof value[0] === 'object'

/** Nested objects as properties of the outer one. */
function flat(object: Properties, prefix = ''): Properties {
  return Object.fromEntries(
    Object.entries(object).flatMap(([key, value]) =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? Object.entries(flat(value, `${prefix}${key} `))
        : [[`${prefix}${key}`, value]],
    ),
  )
}

/** The rows of an object: one for each element of the tables in it, otherwise one. */
function rowsOf(object: Properties): Properties[] {
  const nested = Object.entries(object).find(([, value]) => isTable(value))
  if (nested === undefined) return [flat(object)]
  const [key, rows] = nested
  const own = flat(Object.fromEntries(Object.entries(object).filter(([other]) => other !== key)))
  return (rows as Properties[]).flatMap(rowsOf).map((row) => ({ ...own, ...row }))
}

function tableOf(rows: readonly Properties[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  const lines = [
    columns,
    columns.map(() => '---'),
    ...rows.map((row) => columns.map((column) => cellOf(row[column] ?? ''))),
  ]
  return lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** A value that is no object; see {@link flat}. */
function cellOf(value: Json): string {
  if (Array.isArray(value)) return value.map(cellOf).join(', ')
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(4)))
  return (typeof value === 'string' ? value : JSON.stringify(value)).replace(/[|<>{}*_]/g, '\\$&')
}
