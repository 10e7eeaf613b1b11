/** All charts of a report. */
import type { Report } from '../../../bench/harness/report.js'
import { passes } from '../../../bench/methods/methods.js'
import type { Element } from '../../../report/document.js'
import type { Row } from '../rows.js'
import { barChart } from './bars.js'
import { memoryChart } from './memory.js'
import { ratioChart, ratioHeight } from './ratio.js'
import { rooflineChart } from './roofline.js'
import { sweepChart } from './sweep.js'

/** The charts for which there are enough results. */
export function chartsOf(rows: readonly Row[], report: Report): Element[] {
  const sweeps = (['rank', 'tokens'] as const).flatMap((axis) => passes.map((pass) => sweepChart(axis, pass, rows)))
  const height = ratioHeight(rows)
  const all = [
    ratioChart(rows),
    rooflineChart(rows, report, height),
    memoryChart(report, height),
    ...sweeps,
    barChart('dtype', rows),
    barChart('routing', rows),
  ]
  return all.filter((chart) => chart !== null)
}
