/** Formulas of Markdown (`$...$`, `$$...$$` and blocks of the language math, as GitHub has them), rendered by KaTeX. */
import { katex } from '@mdit/plugin-katex'
import type { MarkdownRenderer } from 'vitepress'

export function math(md: MarkdownRenderer): void {
  // Its types are those of another version of markdown-it.
  katex(md as unknown as Parameters<typeof katex>[0], {
    mathFence: true,
    throwOnError: true,
    strict: 'error',
    // Braces of TeX are not those of Vue; a wide formula scrolls, also by the keyboard.
    transformer: (html, isBlock) =>
      isBlock
        ? html.replace(/^<p class=['"]katex-block['"]>/, '<p class="katex-block" tabindex="0" v-pre>')
        : html.replace('<span class="katex"', '<span class="katex" v-pre'),
  })
}
