/**
 * Links to files that are no pages: a report in JSON has a page, to which the link then leads; other files are collected, to
 * be copied into the site.
 */
import { posix } from 'node:path'
import type { MarkdownRenderer } from 'vitepress'
import { reportNames } from './reports.js'

/** The files to copy, relative to the root of the repository, once all pages are rendered. */
export const linkedFiles = new Set<string>()

export function repositoryFiles(md: MarkdownRenderer, root: string): void {
  const reports = new Set(reportNames(root).map((name) => `bench/results/${name}.json`))
  for (const report of reports) linkedFiles.add(report)
  const render = md.renderer.rules.link_open
  md.renderer.rules.link_open = (tokens, i, options, env: { relativePath: string }, self) => {
    const href = String(tokens[i].attrGet('href'))
    const path = href.replace(/[#?].*$/, '')
    if (/^[\w.][^:]*$/.test(path) && !/(\.md|\.html|\/)$/.test(path)) {
      const file = posix.join(posix.dirname(env.relativePath), decodeURI(path))
      if (reports.has(file)) tokens[i].attrSet('href', href.replace(/\.json$/, '.md'))
      else {
        linkedFiles.add(file)
        // Vue's router would look for a page.
        tokens[i].attrSet('target', '_self')
      }
    }
    return render?.(tokens, i, options, env, self) ?? self.renderToken(tokens, i, options)
  }
}
