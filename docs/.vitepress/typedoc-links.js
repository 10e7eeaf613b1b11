/**
 * A plugin of typedoc: documents and codes of errors that a doc comment names become links of the site, and there are none to
 * sources.
 */
import { MarkdownPageEvent } from 'typedoc-plugin-markdown'

/** @param {import('typedoc-plugin-markdown').MarkdownApplication} app */
export function load(app) {
  app.renderer.on(MarkdownPageEvent.END, (page) => {
    page.contents = page.contents
      ?.replace(/^Defined in: .*\n\n/gm, '')
      .replace(/(?<![\w/(])docs\/([\w/-]+)\.md(#[\w-]+)?/g, '[docs/$1.md](/docs/$1.md$2)')
      .replace(/(?<![\w`'"])ERR_LILY_[A-Z_]+/g, '[`$&`](/docs/errors.md)')
  })
}
