/** Formulas of Markdown (`$...$`, `$$...$$` and blocks of the language math, as GitHub has them), rendered by KaTeX. */
import { katex } from '@mdit/plugin-katex'
import type MarkdownIt from 'markdown-it'

export function math(md: MarkdownIt): void {
  md.use(katex, {
    mathFence: true,
    throwOnError: true,
    strict: 'error',
    // Braces of TeX are not those of Vue; a wide formula scrolls, also by the keyboard.
    transformer: (html: string, isBlock: boolean) =>
      isBlock
        ? html.replace(/^<p class=['"]katex-block['"]>/, '<p class="katex-block" tabindex="0" v-pre>')
        : html.replace('<span class="katex"', '<span class="katex" v-pre'),
  })
}
