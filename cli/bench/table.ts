/** The results as text. */
import type { Method, Report, Result } from '../../bench/report.js'
import { shapeText } from '../../bench/shapes.js'
import { giga, milliseconds, percent, size } from '../report/format.js'
import { plainTable, textOf } from '../report/plain-table.js'
import { type Row, rowsOf, sectionsOf } from './rows.js'

const ratio = (value: number | null | undefined): string => (value == null ? '-' : value.toFixed(2))
const ofFloor = ({ floor, median }: Result): string => (floor === null ? '-' : percent(floor / median))

/** `needs`: of a method that is not measured everywhere. */
const columns: readonly (readonly [title: string, cell: (row: Row) => string, needs?: Method])[] = [
  ['M, d, r, E', ({ shape }) => shapeText(shape)],
  ['', ({ pass }) => pass],
  ['Lily ms', ({ lily }) => milliseconds(lily.median)],
  ['±', ({ lily }) => percent(lily.spread)],
  ['GB/s', ({ lily }) => giga(lily.bytes / lily.median)],
  ['of floor', ({ lily }) => ofFloor(lily)],
  ['LoRA ms', ({ lora }) => milliseconds(lora.median)],
  ['of floor', ({ lora }) => ofFloor(lora)],
  ['Lily/LoRA', ({ lily }) => ratio(lily.ratioToLora)],
  ['equal params', ({ by, lily }) => equalParameters(by.get('lora-equal-parameters'), lily)],
  ['unfused', ({ by }) => ratio(by.get('lily-composed')?.ratioToFused), 'lily-composed'],
  ['graph ms', ({ by }) => milliseconds(by.get('lily-graph')?.median ?? NaN), 'lily-graph'],
  ['graph/LoRA', ({ by }) => ratio(graphToLora(by)), 'lily-graph'],
]

/** Of the medians: the two are measured side by side, too. */
function equalParameters(lora: Result | undefined, lily: Result): string {
  return lora === undefined ? '-' : `${ratio(lily.ratioToLora / lora.ratioToLora)} (r ${lora.rank})`
}

/** Of the medians of the two graphs, which are measured side by side. */
export function graphToLora(by: Row['by']): number | undefined {
  const [lily, lora] = [by.get('lily-graph'), by.get('lora-graph')]
  return lily === undefined || lora === undefined ? undefined : lily.ratioToLora / lora.ratioToLora
}

/** One table, with a line above the rows of each data type and routing. */
export function tableOf(report: Report): string {
  const all = rowsOf(report.results)
  const shown = columns.filter(([, , needs]) => needs === undefined || all.some(({ by }) => by.has(needs)))
  const table = plainTable(
    shown.map(([title]) => title),
    shown.map((_, i) => (i < 2 ? 'left' : 'right')),
  )
  for (const [title, rows] of sectionsOf(all)) {
    table.push([{ content: `\n${title}`, colSpan: shown.length }])
    for (const row of rows) table.push(shown.map(([, cell]) => cell(row)))
  }
  return textOf(table)
}

/** What the numbers are held against, above the table. */
export function headOf({ machine, roofs, overheadSeconds }: Report): string {
  const { device, detail, threads, platform, node } = machine
  const workers = threads === null ? '' : `${threads} thread${threads === 1 ? '' : 's'}, `
  const text = [`${machine.backend}: ${device}, ${detail}, ${workers}${platform}, Node ${node}`]
  if (roofs !== null) {
    text.push(
      `roofs: ${giga(roofs.flops)} GFLOP/s of float32, ${giga(roofs.bfloat16Flops)} of bfloat16 products; ` +
        'GB/s of reading / updating ' +
        roofs.memory.map(({ bytes, read, update }) => `${size(bytes)} ${giga(read)} / ${giga(update)}`).join(', '),
    )
  }
  if (overheadSeconds !== null) {
    const { forward, backward } = overheadSeconds
    const microseconds = (seconds: number) => `${(seconds * 1e6).toFixed(1)} µs`
    text.push(
      `a whole call on (1, 8, 4, 2): forward ${microseconds(forward)}, backward ${microseconds(backward)}: an upper ` +
        'bound of what a call costs besides its kernels',
    )
  }
  return text.join('\n')
}

/** How to read the table, below it. */
export function legendOf({ machine, caches, model, notes, complete }: Report): string {
  const text = [
    `caches ${caches}; y, dx and all gradients given and accumulated; median, ± half the distance of the quartiles`,
    'floor: per phase the larger of FLOPs / roof and bytes / bandwidth of the level that holds the working set',
    'Lily/LoRA: to fused LoRA of the same rank, sampled in turn',
    `equal params: to fused LoRA of the rank in brackets, at which a model of ${model.layers} layers has as many trainable`,
    `  parameters as with Lily (an A for every ${model.strideA} layers, E B's, a router per layer)`,
    machine.backend === 'cpu'
      ? "unfused: the same steps as separate calls of this package's own products, to the fused call"
      : 'graph: the fused calls recorded and replayed, which leaves out what enqueuing them costs',
    ...notes,
    ...(complete ? [] : ['interrupted: what was not measured is missing']),
  ]
  return text.join('\n')
}
