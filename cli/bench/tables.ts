/** The page's tables. */
import type { Method, Report, Result } from '../../bench/report.js'
import { shapeText } from '../../bench/shapes.js'
import { type Element, h } from '../report/document.js'
import { giga, milliseconds, percent, size } from '../report/format.js'
import { type Row, sectionsOf } from './rows.js'
import { graphToLora } from './table.js'

interface Column {
  readonly title: string
  readonly cell: (row: Row) => string
  /** Left out where there is little room. */
  readonly isOptional?: boolean
  /** Of a method that is not measured everywhere. */
  readonly needs?: Method
}

const ratio = (value: number | null | undefined): string => (value == null ? '' : value.toFixed(2))
const ofFloor = ({ floor, median }: Result): string => (floor === null ? '' : percent(floor / median))

const columns: readonly Column[] = [
  { title: 'Lily ms', cell: ({ lily }) => milliseconds(lily.median) },
  { title: '±', cell: ({ lily }) => percent(lily.spread), isOptional: true },
  { title: 'GB/s', cell: ({ lily }) => giga(lily.bytes / lily.median), isOptional: true },
  { title: 'of floor', cell: ({ lily }) => ofFloor(lily) },
  { title: 'LoRA ms', cell: ({ lora }) => milliseconds(lora.median), isOptional: true },
  { title: 'of floor', cell: ({ lora }) => ofFloor(lora), isOptional: true },
  { title: 'Lily / LoRA', cell: ({ lily }) => ratio(lily.ratioToLora) },
  {
    title: 'equal params',
    cell: ({ by, lily }) => {
      const equal = by.get('lora-equal-parameters')
      return equal === undefined ? '' : `${ratio(lily.ratioToLora / equal.ratioToLora)} (r ${equal.rank})`
    },
    isOptional: true,
  },
  ...(['lily', 'lora'] as const).map((adapter): Column => {
    const [needs, name] = [`${adapter}-composed`, adapter === 'lily' ? 'Lily' : 'LoRA'] as const
    return { title: `unfused ${name}`, cell: ({ by }) => ratio(by.get(needs)?.ratioToFused), isOptional: true, needs }
  }),
  { title: 'graph ms', cell: ({ by }) => milliseconds(by.get('lily-graph')?.median ?? NaN), needs: 'lily-graph' },
  { title: 'graph / LoRA', cell: ({ by }) => ratio(graphToLora(by)), needs: 'lily-graph' },
]

const classOf = ({ isOptional }: Column): Record<string, string> => (isOptional === true ? { class: 'optional' } : {})

function resultTable(rows: readonly Row[]): Element {
  const shown = columns.filter(({ needs }) => needs === undefined || rows.some(({ by }) => by.has(needs)))
  const head = shown.map((column) => h('th', { scope: 'col', ...classOf(column) }, column.title))
  const body = rows.map((row) =>
    h(
      'tr',
      row.pass === 'forward' ? { class: 'first' } : {},
      h('th', { scope: 'row' }, row.pass === 'forward' ? shapeText(row.shape) : ''),
      h('td', { class: 'left' }, row.pass === 'forward' ? 'fwd' : '+ bwd'),
      ...shown.map((column) => h('td', classOf(column), column.cell(row))),
    ),
  )
  const first = [h('th', { scope: 'col' }, 'M, d, r, E'), h('th', { scope: 'col', class: 'left' }, 'pass')]
  return h('table', {}, h('thead', {}, h('tr', {}, ...first, ...head)), h('tbody', {}, ...body))
}

/** A heading and a table for each data type and routing. */
export function resultTables(rows: readonly Row[]): Element[] {
  return [...sectionsOf(rows)].flatMap(([title, section]) => [
    h('h3', {}, title),
    h('div', { class: 'box', tabindex: '0', role: 'region', 'aria-label': title }, resultTable(section)),
  ])
}

export function roofTable({ memory }: NonNullable<Report['roofs']>): Element {
  const head = ['GB/s of a buffer of', 'read', 'read and written in place'].map((title) =>
    h('th', { scope: 'col' }, title),
  )
  const body = memory.map(({ bytes, read, update }) =>
    h('tr', {}, h('th', { scope: 'row' }, size(bytes)), h('td', {}, giga(read)), h('td', {}, giga(update))),
  )
  return h(
    'div',
    { class: 'box narrow' },
    h('table', {}, h('thead', {}, h('tr', {}, ...head)), h('tbody', {}, ...body)),
  )
}
