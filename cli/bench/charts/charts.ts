/** The charts, drawn by Observable Plot into SVG: no script runs in the page. */
import { passes, type Report } from '../../../bench/report.js'
import type { Element } from '../../report/document.js'
import type { Row } from '../rows.js'
import { barChart } from './bars.js'
import { memoryChart } from './memory.js'
import { ratioChart, ratioHeight } from './ratio.js'
import { rooflineChart } from './roofline.js'
import { sweepChart } from './sweep.js'

/** Those that what was measured allows. */
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
