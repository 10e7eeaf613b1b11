/** What pages need besides the Markdown of VitePress, so that everybody can read them. */
import type { MarkdownRenderer } from 'vitepress'

export function accessible(md: MarkdownRenderer): void {
  const { fence } = md.renderer.rules
  // Indented code has the frame of a block with fences, in which it scrolls.
  if (fence !== undefined) md.renderer.rules.code_block = fence
  // A report of a benchmark begins with a heading of the second level, because the command prints others before it.
  md.core.ruler.push('first_heading', ({ tokens }) => {
    if (tokens.some(({ tag }) => tag === 'h1')) return
    for (const token of tokens) token.tag = token.tag.replace(/^h([2-6])$/, (_, level) => `h${Number(level) - 1}`)
  })
  // The corner of a table is no header.
  md.core.ruler.push('empty_headers', ({ tokens }) => {
    for (const [i, token] of tokens.entries()) {
      if (token.type !== 'th_open' || tokens[i + 1].content !== '') continue
      token.tag = 'td'
      tokens[i + 2].tag = 'td'
    }
  })
}
