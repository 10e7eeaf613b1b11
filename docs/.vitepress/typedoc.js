/**
 * A plugin of typedoc. Documents and codes of errors that a doc comment names become links of the site, there are no links to
 * sources, and methods of protocols of the language, which nobody calls by name, are left out.
 */
import { Converter, ReflectionKind } from 'typedoc'
import { MarkdownPageEvent } from 'typedoc-plugin-markdown'

const PROTOCOLS = ['[dispose]', '[hasInstance]', '[inspectSymbol]']

/** @param {import('typedoc-plugin-markdown').MarkdownApplication} app */
export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const method of project.getReflectionsByKind(ReflectionKind.Method)) {
      if (PROTOCOLS.includes(method.name)) project.removeReflection(method)
    }
  })
  app.renderer.on(MarkdownPageEvent.END, (page) => {
    page.contents = page.contents
      ?.replace(/^Defined in: .*\n*/gm, '')
      .replace(/(?<![\w/]|\]\()docs\/([\w/-]+)\.md(#[\w-]+)?/g, '[docs/$1.md](/docs/$1.md$2)')
      .replace(/(?<![\w`'"])ERR_LILY_[A-Z_]+/g, '[`$&`](/docs/memory.md#errors)')
  })
}
