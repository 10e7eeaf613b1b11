/** The tables of the HTML report. */
import type { Failure, Report } from '../../bench/harness/report.js'
import type { Method } from '../../bench/methods/methods.js'
import { shapeText } from '../../bench/workload/shapes.js'
import { type Element, h } from '../../report/document.js'
import { columnHeader, rowHeader, scrollable, tableOf } from '../../report/elements.js'
import { giga, milliseconds, percent, ratio, size } from '../../report/format.js'
import {
  equalParametersText,
  graphRatioToLora,
  marked,
  overheadOf,
  type Row,
  sectionsOf,
  shareText,
  timeText,
} from './rows.js'

interface Column {
  readonly title: string
  readonly cell: (row: Row) => string
  /** Hidden on small screens. */
  readonly isOptional?: boolean
  /** The column is shown if this method was measured. */
  readonly needs?: Method
}

const columns: readonly Column[] = [
  { title: 'Lily ms', cell: ({ lily }) => milliseconds(lily.median) },
  { title: '±', cell: ({ lily }) => marked(percent(lily.spread), lily, 'spread'), isOptional: true },
  { title: 'GB/s', cell: ({ lily }) => giga(lily.bytes / lily.median), isOptional: true },
  { title: 'of floor', cell: ({ lily }) => shareText(lily, '') },
  { title: 'LoRA ms', cell: ({ lora }) => timeText(lora), isOptional: true },
  { title: 'of floor', cell: ({ lora }) => shareText(lora, ''), isOptional: true },
  { title: 'Lily / LoRA', cell: ({ lily }) => ratio(lily.ratioToLora) },
  { title: 'equal params', cell: (row) => equalParametersText(row, ''), isOptional: true },
  ...(['lily', 'lora'] as const).map((adapter): Column => {
    const [needs, name] = [`${adapter}-composed`, adapter === 'lily' ? 'Lily' : 'LoRA'] as const
    const cell = ({ by }: Row) => ratio(by.get(needs)?.ratioToFused, '')
    return { title: `unfused ${name}`, cell, isOptional: true, needs }
  }),
  { title: 'layer ms', cell: ({ by }) => timeText(by.get('layer')), needs: 'layer' },
  { title: 'layer + Lily', cell: (row) => percent(overheadOf(row, 'lily'), ''), needs: 'layer' },
  { title: 'layer + LoRA', cell: (row) => percent(overheadOf(row, 'lora'), ''), needs: 'layer' },
  { title: 'graph ms', cell: ({ by }) => timeText(by.get('lily-graph')), needs: 'lily-graph' },
  { title: 'graph / LoRA', cell: (row) => ratio(graphRatioToLora(row), ''), needs: 'lily-graph' },
]

const classOf = ({ isOptional }: Column): Record<string, string> => (isOptional === true ? { class: 'optional' } : {})

function resultTable(rows: readonly Row[], failures: readonly Failure[]): Element {
  const shown = columns.filter(({ needs }) => needs === undefined || rows.some(({ by }) => by.has(needs)))
  const head = [
    columnHeader('M, d, r, E'),
    columnHeader('pass', { class: 'left' }),
    ...shown.map((column) => columnHeader(column.title, classOf(column))),
  ]
  const body = rows.map((row) => {
    const cells = shown.map((column) => h('td', classOf(column), column.cell(row)))
    const passCell = (text: string) => h('td', { class: 'left' }, text)
    // A case has both passes, in this order.
    return row.pass === 'forward'
      ? h('tr', { class: 'first' }, rowHeader(shapeText(row.shape), { rowspan: '2' }), passCell('fwd'), ...cells)
      : h('tr', {}, passCell('+ bwd'), ...cells)
  })
  const failed = failures.map(({ shape, reason }) =>
    h(
      'tr',
      { class: 'first' },
      rowHeader(shapeText(shape)),
      h('td', { class: 'reason', colspan: String(1 + shown.length) }, `failed: ${reason}`),
    ),
  )
  return tableOf(head, [...body, ...failed])
}

/** A heading and a table for each data type and routing. `backend` tells the tables of two backends apart. */
export function resultTables(backend: string, rows: readonly Row[], failures: readonly Failure[]): Element[] {
  const [measured, failed] = [sectionsOf(rows), sectionsOf(failures)]
  return [...new Set([...measured.keys(), ...failed.keys()])].flatMap((title) => [
    h('h3', {}, title),
    scrollable(`${backend}: ${title}`, resultTable(measured.get(title) ?? [], failed.get(title) ?? [])),
  ])
}

export function roofTable({ memory }: NonNullable<Report['roofs']>): Element {
  const head = ['Buffer size', 'GB/s read', 'GB/s updated in place'].map((title) => columnHeader(title))
  const body = memory.map(({ bytes, read, update }) =>
    h('tr', {}, rowHeader(size(bytes)), h('td', {}, giga(read)), h('td', {}, giga(update))),
  )
  return h('div', { class: 'box narrow' }, tableOf(head, body))
}
