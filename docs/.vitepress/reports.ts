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

/** Objects whose properties need no name of the object before theirs. */
const PLAIN: ReadonlySet<string> = new Set(['shape', 'counts', 'environment', 'sizes'])

/** Properties of reports that need more than the words of their names: title with unit, and the factor to the unit. */
const QUANTITIES: Readonly<Record<string, readonly [title: string, factor: number]>> = {
  median: ['median, ms', 1000],
  spread: ['spread, %', 100],
  touched: ['distinct bytes', 1],
  requested: ['bytes requested', 1],
  wavefronts: ['wavefronts, relative', 1],
  coalescing: ['sectors, relative', 1],
  dtype: ['data type', 1],
  results: ['Results', 1],
  rows: ['Results', 1],
  missing: ['Not measured', 1],
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
  const { title, command } = listed(root, name)
  const { command: exact } = json as Properties
  const first = Array.isArray(json) ? '' : exact === undefined ? command : `\`${exact as string}\``
  const link = `<a href="./${name}.json" download>All numbers as JSON</a>`
  return [`# ${title}`, first, ...body, link].filter((part) => part !== '').join('\n\n')
}

/** What the list of reports calls it, and the command there. */
function listed(root: string, name: string): { title: string; command: string } {
  const list = readFileSync(join(root, FOLDER, 'README.md'), 'utf8')
  const [, title = name, command = ''] =
    new RegExp(`\\[([^\\]]+)\\]\\(${name}\\.json\\) *\\| (\`.*?\`)`).exec(list) ?? []
  return { title: title[0].toUpperCase() + title.slice(1), command }
}

/** Machine and command, then other values as a list, and arrays of objects as tables. */
function pageOf({
  machine = {},
  versions = {},
  command: _,
  complete,
  measuredAt,
  version,
  ...others
}: Properties): string[] {
  const tables = Object.entries(others).filter(([, value]) => isTable(value))
  const values = Object.entries(others).filter(([, value]) => !isTable(value) && cellOf(value) !== '')
  const { device, instructionSet, threads, platform, node } = machine as Properties
  const threadsText = threads === undefined ? undefined : threads === 1 ? '1 thread' : `${cellOf(threads)} threads`
  const made = {
    ...(node === undefined ? {} : { Node: node }),
    ...(versions as Properties),
    ...(version === undefined ? {} : { 'lily-kernels': version }),
  }
  return [
    [device, instructionSet, threadsText, platform]
      .filter((part) => part !== undefined)
      .map((part) => cellOf(part))
      .join(', '),
    [
      ...Object.entries(made).map(([name, text]) => `${name} ${cellOf(text)}`),
      ...(measuredAt === undefined ? [] : [`measured on ${(measuredAt as string).slice(0, 10)}`]),
      ...(complete === false ? ['incomplete'] : []),
    ].join('; '),
    values
      .map(([key, value]) => `- ${titleOf(key)}: ${isObject(value) ? listOf(flat(value)) : cellOf(value)}`)
      .join('\n'),
    ...tables.flatMap(([key, value]) => [`## ${titleOf(key)}`, ...tableOf((value as Properties[]).flatMap(rowsOf))]),
  ]
}

const listOf = (values: Properties): string =>
  Object.entries(values)
    .map(([key, value]) => `${titleOf(key)} ${cellOf(value)}`)
    .join('; ')

const isObject = (value: Json): value is Properties =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isTable = (value: Json): boolean => Array.isArray(value) && typeof value[0] === 'object'

/** Nested objects as properties of the outer one. Numbers are in the units of their titles. */
function flat(object: Properties, prefix = ''): Properties {
  return Object.fromEntries(
    Object.entries(object).flatMap(([key, value]) => {
      if (isObject(value)) return Object.entries(flat(value, PLAIN.has(key) ? '' : `${prefix}${key} `))
      const name = `${prefix}${key}`
      return [[name, typeof value === 'number' ? value * quantityOf(name)[1] : value]]
    }),
  )
}

/** The title of a flattened property, and the factor to its unit: 'without median' is 'without: median, ms'. */
function quantityOf(name: string): readonly [title: string, factor: number] {
  const at = name.lastIndexOf(' ')
  const [prefix, key] = [name.slice(0, Math.max(at, 0)), name.slice(at + 1)]
  if (prefix === 'parts') return [`${key}, ms`, 1000] // of a step
  const [title, factor] = QUANTITIES[key] ?? [wordsOf(key), 1]
  return [`${prefix === '' ? '' : `${wordsOf(prefix)}: `}${title}`, factor]
}

const titleOf = (name: string): string => quantityOf(name)[0].replace(/[_*]/g, '\\$&')

/** 'ratioToC' is 'ratio to C'. Names of environment variables stay. */
const wordsOf = (name: string): string =>
  name.replace(/(?<=[a-z])[A-Z](?![A-Z])/g, (letter, i: number) =>
    i === name.length - 1 ? ` ${letter}` : ` ${letter.toLowerCase()}`,
  )

/** The rows of an object: one for each element of the tables in it, otherwise one. */
function rowsOf(object: Properties): Properties[] {
  const nested = Object.entries(object).find(([, value]) => isTable(value))
  if (nested === undefined) return [flat(object)]
  const [key, rows] = nested
  const own = flat(Object.fromEntries(Object.entries(object).filter(([other]) => other !== key)))
  return (rows as Properties[]).flatMap(rowsOf).map((row) => ({ ...own, ...row }))
}

/** What all rows have in common, and the others as a table. Numbers are at the right. */
function tableOf(rows: readonly Properties[]): string[] {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].map((name) => {
    const values = rows.map((row) => row[name] ?? '')
    const isNumeric = values.every((value) => typeof value === 'number' || value === '')
    const hasFractions = values.some((value) => typeof value === 'number' && !Number.isInteger(value))
    return { name, isNumeric, cells: values.map((value) => cellOf(value, hasFractions)) }
  })
  const isCommon = ({ cells }: (typeof columns)[number]) => rows.length > 1 && new Set(cells).size === 1
  const common = columns.filter(isCommon).map(({ name, cells }) => `${titleOf(name)} ${cells[0]}`)
  const shown = columns.filter((column) => !isCommon(column) && column.cells.some((cell) => cell !== ''))
  const lines = [
    shown.map(({ name }) => titleOf(name)),
    shown.map(({ isNumeric }) => (isNumeric ? '--:' : '---')),
    ...rows.map((_, i) => shown.map(({ cells }) => cells[i])),
  ]
  return [
    common.length === 0 ? '' : `All rows: ${common.join('; ')}.`,
    lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n'),
  ]
}

/**
 * A value that is no object; see {@link flat}. Two numbers are the least and the most. A number has three digits, but an integer
 * outside of a column of fractions has all.
 */
function cellOf(value: Json, isFraction = false): string {
  if (Array.isArray(value)) {
    const isRange = value.length === 2 && value.every((each) => typeof each === 'number')
    const cells = (isRange ? [...new Set(value)] : value).map((each) => cellOf(each, isFraction))
    if (cells.length > 3) return `${cells[0]}, ..., ${cells.at(-1)}`
    return cells.join(isRange ? ' to ' : ', ')
  }
  if (typeof value !== 'number') {
    return (typeof value === 'string' ? value : JSON.stringify(value)).replace(/[|<>{}*_]/g, '\\$&')
  }
  if (Number.isInteger(value) && !isFraction) return value.toLocaleString('en')
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(2)
  const digits = { minimumSignificantDigits: isFraction ? 3 : 1, maximumSignificantDigits: 3 }
  return value.toLocaleString('en', digits)
}
