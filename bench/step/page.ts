/** The results of `bench:step` as one HTML file, with a stacked bar for each contender. */
import * as Plot from '@observablehq/plot'
import { figure, plot } from '../../report/chart.js'
import { type Element, h, htmlPage } from '../../report/document.js'
import { charts, columnHeader, rowHeader, scrollable, tableOf } from '../../report/elements.js'
import { legend } from '../../report/legend.js'
import { withPrintableStrings } from '../../report/printable.js'
import { style } from '../../report/style.js'
import type { StepRow } from './measure.js'
import { type Part, parts, partTitles } from './protocol.js'
import {
  explanations,
  header,
  INTERRUPTED,
  milliseconds,
  missingLine,
  partsOf,
  rowTitle,
  type StepReport,
} from './report.js'

const COLORS: Readonly<Record<Part, string>> = {
  layers: 'var(--lily)',
  attention: 'var(--lora)',
  kernels: 'var(--equal)',
  framework: 'var(--memory)',
  optimiser: 'var(--muted)',
}

/** Bars of a contender that takes many times as long would hide the others: it has a chart of its own. */
const FAR = 3

function chart(row: StepRow, isFar: boolean): Element | null {
  const results = row.results.filter(({ ratioToOurs }) => ratioToOurs > FAR === isFar)
  if (results.length === 0) return null
  type Bar = { readonly name: string; readonly part: Part; readonly ms: number }
  const bars: Bar[] = results.flatMap((result) =>
    partsOf(result).flatMap(([part, seconds]) =>
      seconds === undefined ? [] : [{ name: result.contender, part, ms: seconds * 1e3 }],
    ),
  )
  return figure(
    rowTitle(row),
    `Milliseconds per step by part${isFar ? `; contenders that take more than ${FAR} times as long as this package` : ''}.`,
    legend(
      'dot',
      parts.map((part) => ({ text: partTitles[part], color: COLORS[part] })),
    ),
    plot(`Milliseconds per step by part: ${rowTitle(row)}`, {
      height: 60 + 44 * results.length,
      marginLeft: 110,
      x: { label: null, grid: true, ticks: 5 },
      y: { domain: results.map(({ contender }) => contender), label: null, padding: 0.3 },
      marks: [
        Plot.barX(bars, {
          x: 'ms',
          y: 'name',
          fill: ({ part }: Bar) => COLORS[part],
          title: ({ part, ms }: Bar) => `${partTitles[part]}: ${ms.toFixed(1)} ms`,
        }),
        Plot.ruleX([0]),
      ],
    }),
  )
}

function table(row: StepRow): Element {
  const heads = ['contender', 'ms per step', 'relative', ...parts.map((part) => partTitles[part])]
  const lines = row.results.map((result) =>
    h(
      'tr',
      {},
      rowHeader(result.contender),
      ...[
        milliseconds(result.median),
        result.ratioToOurs.toFixed(2),
        ...partsOf(result).map(([, seconds]) => milliseconds(seconds)),
      ].map((text) => h('td', {}, text)),
    ),
  )
  return scrollable(
    rowTitle(row),
    tableOf(
      heads.map((head) => columnHeader(head)),
      lines,
    ),
  )
}

export function stepPage(given: StepReport): string {
  const report = withPrintableStrings(given)
  const [machine, facts] = header(report)
  const title = `A training step on ${machine}`
  const figures = report.rows.flatMap((row) => [chart(row, false), chart(row, true)]).filter((each) => each !== null)
  return htmlPage(
    title,
    style,
    [
      h('header', {}, h('h1', {}, title), h('p', { class: 'muted' }, facts.replaceAll('`', ''))),
      ...(report.complete ? [] : [h('p', { class: 'alert' }, INTERRUPTED)]),
      charts(figures),
      ...report.rows.flatMap((row) => [h('h2', {}, rowTitle(row)), table(row)]),
      h('h2', {}, 'Method'),
      ...explanations.map((text) => h('p', {}, text)),
      ...report.missing.map((each) => h('p', { class: 'alert' }, `Not measured: ${missingLine(each)}`)),
    ],
    given,
  )
}
