/**
 * `<!-- charts: bench/results/NAME.json -->` in a page becomes the charts of `lily-kernels bench` for those results, with a
 * number after the name the first of them, and `<!-- tables: ... -->` the tables.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MarkdownRenderer } from 'vitepress'
import { chartsOf } from '../../cli/bench/charts/charts.js'
import { resultTables } from '../../cli/bench/page-tables.js'
import { readReports } from '../../cli/bench/read-reports.js'
import { rowsOf } from '../../cli/bench/rows.js'
import { charts as chartList } from '../../report/elements.js'

export function charts(md: MarkdownRenderer, root: string): void {
  const render = md.renderer.rules.html_block
  md.renderer.rules.html_block = (tokens, i, ...rest) => {
    const [, what, file, count] = /^<!-- (charts|tables): (\S+)(?: (\d+))? -->/.exec(tokens[i].content) ?? []
    if (file === undefined) return render?.(tokens, i, ...rest) ?? tokens[i].content
    const elements = readReports(readFileSync(join(root, file), 'utf8')).flatMap((report) => {
      const rows = rowsOf(report.results)
      return what === 'charts' ? chartsOf(rows, report) : resultTables(report.machine.backend, rows, report.failures)
    })
    const shown =
      what === 'charts' ? [chartList(elements.slice(0, count === undefined ? undefined : Number(count)))] : elements
    // As a text, because Vue removes the style elements of a template.
    const html = JSON.stringify(shown.map(({ outerHTML }) => outerHTML).join('\n'))
    return `<div class="bench" v-html="${md.utils.escapeHtml(html)}"></div>\n`
  }
}
