/** `<!-- charts: bench/results/NAME.json -->` in a page becomes the charts of `lily-kernels bench` for those results. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MarkdownRenderer } from 'vitepress'
import { chartsOf } from '../../cli/bench/charts/charts.js'
import { readReports } from '../../cli/bench/read-reports.js'
import { rowsOf } from '../../cli/bench/rows.js'
import { charts as chartList } from '../../cli/report/elements.js'

export function charts(md: MarkdownRenderer, root: string): void {
  const render = md.renderer.rules.html_block
  md.renderer.rules.html_block = (tokens, i, ...rest) => {
    const [, file] = /^<!-- charts: (\S+) -->/.exec(tokens[i].content) ?? []
    if (file === undefined) return render?.(tokens, i, ...rest) ?? tokens[i].content
    const reports = readReports(readFileSync(join(root, file), 'utf8'))
    const figures = reports.flatMap((report) => chartsOf(rowsOf(report.results), report))
    // As a text, because Vue removes the style elements of a template.
    const html = JSON.stringify(chartList(figures).outerHTML)
    return `<div class="bench" v-html="${md.utils.escapeHtml(html)}"></div>\n`
  }
}
