/** `<!-- charts: bench/results/NAME.json -->` in a page becomes the charts of `lily-kernels bench` for those results. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MarkdownRenderer } from 'vitepress'
import type { Report } from '../../bench/harness/report.js'
import { chartsOf } from '../../cli/bench/charts/charts.js'
import { rowsOf } from '../../cli/bench/rows.js'
import { charts as chartList } from '../../cli/report/elements.js'

export function charts(md: MarkdownRenderer, root: string): void {
  const render = md.renderer.rules.html_block
  md.renderer.rules.html_block = (tokens, i, ...rest) => {
    const [, file] = /^<!-- charts: (\S+) -->/.exec(tokens[i].content) ?? []
    if (file === undefined) return render?.(tokens, i, ...rest) ?? tokens[i].content
    const reports = JSON.parse(readFileSync(join(root, file), 'utf8')) as Report[]
    const figures = reports.flatMap((report) => chartsOf(rowsOf(report.results), report))
    // A group of marks is no element that may have a name; the chart is one picture with the name that it has.
    const html = chartList(figures)
      .outerHTML.replace(/(<g\b[^>]*?) aria-label="[^"]*"/g, '$1')
      .replace(/<svg\b/g, '<svg role="img"')
    // As a text, because Vue removes the style elements of a template.
    return `<div class="bench" v-html="${md.utils.escapeHtml(JSON.stringify(html))}"></div>\n`
  }
}
