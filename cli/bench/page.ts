/** The report as one HTML file. */
import { median } from 'd3-array'
import type { Pass, Report } from '../../bench/report.js'
import { type Element, h, pageWith } from '../report/document.js'
import { giga, percent } from '../report/format.js'
import { style } from '../report/style.js'
import { chartsOf } from './charts/charts.js'
import { type Row, rowsOf } from './rows.js'
import { resultTables, roofTable } from './tables.js'

const tile = (value: string, text: string): Element =>
  h('div', { class: 'tile' }, h('dt', {}, text), h('dd', {}, value))

function tiles(rows: readonly Row[]): Element[] {
  const over = (pass: Pass | null, value: (row: Row) => number | null | undefined): number | undefined =>
    median(rows.filter((row) => pass === null || row.pass === pass).map((row) => value(row) ?? NaN))
  const times = (value: number | undefined): string => (value === undefined ? '-' : `${value.toFixed(2)}×`)
  const forward = over('forward', ({ lily }) => lily.ratioToLora)
  const both = over('forward+backward', ({ lily }) => lily.ratioToLora)
  const unfused = over(null, ({ by }) => by.get('lily-composed')?.ratioToFused)
  const floor = over(null, ({ lily }) => (lily.floor === null ? null : lily.floor / lily.median))
  return [
    tile(times(forward), 'the time of LoRA of the same rank, forward; median of all cases'),
    tile(times(both), 'the time of LoRA of the same rank, forward + backward; median'),
    ...(unfused === undefined
      ? []
      : [tile(times(unfused), 'the time of fused Lily where its steps are not fused; median')]),
    ...(floor === undefined ? [] : [tile(percent(floor), 'of the speed that this machine’s limits allow; median')]),
  ]
}

function head({ machine, caches, measuredAt, command, version, complete }: Report): Element {
  const { device, detail, threads, platform, node, backend } = machine
  const workers = threads === null ? '' : `${threads} thread${threads === 1 ? '' : 's'}, `
  const when = measuredAt.slice(0, 16).replace('T', ' ')
  return h(
    'header',
    {},
    h('h1', {}, `Lily against LoRA on ${device}`),
    h('p', {}, `${detail}, ${workers}${platform}, Node ${node}. Backend ${backend}, caches ${caches}.`),
    h('p', { class: 'muted' }, `lily-kernels ${version}, ${when} UTC: `, h('code', {}, command)),
    ...(complete ? [] : [h('p', { class: 'alert' }, 'This run was interrupted: what was not measured is missing.')]),
  )
}

function how({ roofs, overheadSeconds, model, caches, notes }: Report): Element {
  const items: [string, string][] = [
    [
      'time',
      'Median of one call, whose y, dx and gradients are given and accumulated; ± is half the distance of the ' +
        `quartiles. All methods are sampled in turn, so their ratios hold where the machine's speed drifts. Caches ${caches}: ` +
        (caches === 'warm'
          ? 'every call has the same buffers.'
          : 'buffers rotate, and no call finds its own in a cache.'),
    ],
    [
      'of floor',
      'Share of the speed that the roofs allow: the sum over the phases of the larger of FLOPs / arithmetic roof and ' +
        'bytes / bandwidth of the level of memory that holds the working set.',
    ],
    ['GB/s', 'The fewest bytes that the phases must read and write, by the time.'],
    ['Lily / LoRA', "To this package's fused LoRA of the same rank: what the router and the mixing of experts cost."],
    [
      'equal params',
      `To fused LoRA of the rank in brackets. There a model of ${model.layers} layers has as many trainable parameters as ` +
        `with Lily, which has an A for every ${model.strideA} layers, E B's and a router per layer.`,
    ],
    [
      'unfused',
      "The same steps as calls of their own with this package's own products, softmax and pooling in JavaScript, every " +
        'intermediate in memory; relative to the fused call. Its products carry an identity matrix: about r / d more arithmetic.',
    ],
  ]
  if (roofs !== null) {
    const rates = `${giga(roofs.flops)} GFLOP/s of float32 multiply-adds, ${giga(roofs.bfloat16Flops)} of bfloat16 products`
    items.push(['arithmetic', `${rates}, measured in this run with all threads.`])
  }
  if (overheadSeconds !== null) {
    const [forward, backward] = [overheadSeconds.forward, overheadSeconds.backward].map((s) => (s * 1e6).toFixed(1))
    const text = `A whole call on (1, 8, 4, 2) takes ${forward} µs forward and ${backward} µs backward`
    items.push(['overhead', `${text}: an upper bound of what a call costs besides its kernels.`])
  }
  items.push(...notes.map((note): [string, string] => ['note', note]))
  return h('dl', { class: 'how' }, ...items.flatMap(([name, text]) => [h('dt', {}, name), h('dd', {}, text)]))
}

function section(report: Report): Element {
  const rows = rowsOf(report.results)
  const charts = rows.length === 0 ? [] : chartsOf(rows, report)
  return h(
    'section',
    {},
    head(report),
    h('dl', { class: 'tiles' }, ...(rows.length === 0 ? [] : tiles(rows))),
    ...(charts.length === 0 ? [] : [h('h2', {}, 'Charts'), h('div', { class: 'charts' }, ...charts)]),
    h('h2', {}, 'All numbers'),
    ...resultTables(rows),
    ...(report.roofs === null ? [] : [h('h2', {}, 'Memory'), roofTable(report.roofs)]),
    h('h2', {}, 'How it was measured'),
    how(report),
  )
}

/** A section for each backend. */
export function pageOf(reports: readonly Report[]): string {
  const devices = reports.map(({ machine }) => machine.device).join(' and ')
  return pageWith(`Lily against LoRA on ${devices}`, style, reports.map(section), reports)
}
