/** What VitePress leaves out of tables and of indented code. */
import type { MarkdownRenderer } from 'vitepress'

export function accessible(md: MarkdownRenderer): void {
  const { fence } = md.renderer.rules
  // Indented code has the frame of a block with fences, in which it scrolls.
  if (fence !== undefined) md.renderer.rules.code_block = fence
  // The corner of a table is no header.
  md.core.ruler.push('empty_headers', ({ tokens }) => {
    for (const [i, token] of tokens.entries()) {
      if (token.type !== 'th_open' || tokens[i + 1].content !== '') continue
      token.tag = 'td'
      tokens[i + 2].tag = 'td'
    }
  })
}
