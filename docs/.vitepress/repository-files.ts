/** Links to files that are no pages, such as results in JSON: they are collected, to be copied into the site. */
import { posix } from 'node:path'
import type MarkdownIt from 'markdown-it'

const linked = new Set<string>()

function plugin(md: MarkdownIt): void {
  const render = md.renderer.rules.link_open!
  md.renderer.rules.link_open = (tokens, i, options, env: { relativePath: string }, self) => {
    const href = String(tokens[i]!.attrGet('href'))
    const path = href.replace(/[#?].*$/, '')
    if (/^[\w.][^:]*$/.test(path) && /\/?[^/]+$/.test(path) && !/(\.md|\.html|\/)$/.test(path)) {
      linked.add(posix.join(posix.dirname(env.relativePath), decodeURI(path)))
      tokens[i]!.attrSet('target', '_self')
    }
    return render(tokens, i, options, env, self)
  }
}

export const repositoryFiles = Object.assign(plugin, { linked: linked as ReadonlySet<string> })
