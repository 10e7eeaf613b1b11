/** Links to files that are no pages, such as results in JSON: they are collected, to be copied into the site. */
import { posix } from 'node:path'
import type { MarkdownRenderer } from 'vitepress'

/** The linked files, relative to the root of the repository, once all pages are rendered. */
export const linkedFiles = new Set<string>()

export function repositoryFiles(md: MarkdownRenderer): void {
  const render = md.renderer.rules.link_open
  md.renderer.rules.link_open = (tokens, i, options, env: { relativePath: string }, self) => {
    const path = String(tokens[i].attrGet('href')).replace(/[#?].*$/, '')
    if (/^[\w.][^:]*$/.test(path) && !/(\.md|\.html|\/)$/.test(path)) {
      linkedFiles.add(posix.join(posix.dirname(env.relativePath), decodeURI(path)))
      // Vue's router would look for a page.
      tokens[i].attrSet('target', '_self')
    }
    return render?.(tokens, i, options, env, self) ?? self.renderToken(tokens, i, options)
  }
}
