/** The report as one HTML file. */
import { median } from 'd3-array'
import type { Report } from '../../bench/harness/report.js'
import type { Pass } from '../../bench/methods/methods.js'
import { countOf } from '../../lib/base/errors.js'
import { type Element, h, htmlPage } from '../../report/document.js'
import { charts, definitions, type Tile, tiles } from '../../report/elements.js'
import { giga, microseconds, NONE, percent } from '../../report/format.js'
import { printable, withPrintableStrings } from '../../report/printable.js'
import { style } from '../../report/style.js'
import { chartsOf } from './charts/charts.js'
import { resultTables, roofTable } from './page-tables.js'
import { machineText, type Row, rowsOf, shareOfFloor } from './rows.js'

function summary(rows: readonly Row[]): Tile[] {
  const medianOf = (pass: Pass | null, value: (row: Row) => number | null | undefined): number | undefined =>
    median(rows.filter((row) => pass === null || row.pass === pass).map((row) => value(row) ?? NaN))
  const times = (value: number | undefined): string => (value === undefined ? NONE : `${value.toFixed(2)}×`)
  const forward = medianOf('forward', ({ lily }) => lily.ratioToLora)
  const both = medianOf('forward+backward', ({ lily }) => lily.ratioToLora)
  const unfused = medianOf(null, ({ by }) => by.get('lily-composed')?.ratioToFused)
  const floor = medianOf(null, ({ lily }) => shareOfFloor(lily))
  return [
    { value: times(forward), text: 'forward time relative to LoRA of the same rank, median' },
    { value: times(both), text: 'forward + backward time relative to LoRA of the same rank, median' },
    ...(unfused === undefined
      ? []
      : [{ value: times(unfused), text: 'time of unfused Lily relative to fused, median' }]),
    ...(floor === undefined
      ? []
      : [{ value: percent(floor), text: 'of the speed that the roofs of this machine allow, median' }]),
  ]
}

function header({ verdict, machine, caches, measuredAt, command, version, complete, failures }: Report): Element {
  const date = measuredAt.slice(0, 16).replace('T', ' ')
  return h(
    'header',
    {},
    h('h1', {}, `Lily compared with LoRA on ${machine.device}`),
    h('p', { class: 'verdict' }, verdict),
    h('p', {}, `${machineText(machine)}. Backend ${machine.backend}, ${caches} caches.`),
    h('p', { class: 'muted' }, `lily-kernels ${version}, ${date} UTC: `, h('code', {}, command)),
    ...(complete
      ? []
      : [h('p', { class: 'alert' }, 'This run was interrupted: the remaining cases were not measured.')]),
    ...(failures.length === 0
      ? []
      : [h('p', { class: 'alert' }, `${countOf(failures.length, 'case')} failed: see the results.`)]),
  )
}

function method({ roofs, overheadSeconds, model, caches, notes }: Report): Element {
  const items: [string, string][] = [
    [
      'time',
      'Median time of one call with preallocated y, dx and gradients, accumulated in place; ± is half the interquartile ' +
        'range. All methods are sampled in turn, so a drift in the speed of the machine does not affect their ratios. ' +
        (caches === 'warm'
          ? 'Warm caches: every call uses the same operands.'
          : 'Cold caches: operands rotate, so no call finds its operands in a cache.'),
    ],
    [
      'of floor',
      'Share of the speed that the roofs allow. The floor is the sum over the phases of the larger of FLOPs / arithmetic ' +
        'roof and bytes / bandwidth of the fastest memory that can hold the arrays of the phase.',
    ],
    ['GB/s', 'Minimum number of bytes that the phases must read and write, divided by the time.'],
    [
      'Lily / LoRA',
      'Time relative to the fused LoRA of this package at the same rank: the cost of the router and of combining the experts.',
    ],
    [
      'equal params',
      `Time relative to fused LoRA of the rank in brackets, at which a model of ${model.layers} layers has as many ` +
        `trainable parameters as with Lily (an A per ${model.strideA} layers, E matrices B, a router per layer).`,
    ],
    [
      'unfused',
      'Time relative to the fused call when every step is a separate call of this package, softmax and pooling run in ' +
        'JavaScript, and every intermediate result is in memory. The products include an identity matrix, which adds about ' +
        'r / d to the arithmetic.',
    ],
  ]
  if (roofs !== null) {
    const rates = `${giga(roofs.flops)} GFLOP/s of float32 multiply-adds, ${giga(roofs.bfloat16Flops)} GFLOP/s of bfloat16 products, with random numbers`
    items.push(['arithmetic', `${rates}, measured in this run with all threads.`])
  }
  if (overheadSeconds !== null) {
    const [forward, backward] = [overheadSeconds.forward, overheadSeconds.backward].map(microseconds)
    const text = `A whole call at (1, 8, 4, 2) takes ${forward} forward and ${backward} backward`
    items.push(['overhead', `${text}: an upper bound of the cost of a call besides its kernels.`])
  }
  items.push(...notes.map((note): [string, string] => ['note', note]))
  return definitions(items)
}

function section(report: Report): Element {
  const rows = rowsOf(report.results)
  const figures = rows.length === 0 ? [] : chartsOf(rows, report)
  return h(
    'section',
    {},
    header(report),
    tiles(rows.length === 0 ? [] : summary(rows)),
    ...(figures.length === 0 ? [] : [h('h2', {}, 'Charts'), charts(figures)]),
    h('h2', {}, 'Results'),
    ...resultTables(report.machine.backend, rows, report.failures),
    ...(report.roofs === null ? [] : [h('h2', {}, 'Memory bandwidth'), roofTable(report.roofs)]),
    h('h2', {}, 'Method'),
    method(report),
  )
}

/** One section per backend. */
export function reportPage(reports: readonly Report[]): string {
  const devices = reports.map(({ machine }) => machine.device).join(' and ')
  return htmlPage(
    printable(`Lily compared with LoRA on ${devices}`),
    style,
    reports.map((report) => section(withPrintableStrings(report))),
    reports,
  )
}
