/** The HTML document of a report. It is built with a DOM, which escapes text and accepts the charts of Plot. */
import { parseHTML } from 'linkedom'
import { jsonText } from './printable.js'

/** The subset of the DOM that the reports use. The types of lib.dom would be global, and this code runs in Node only. */
export interface Element {
  readonly outerHTML: string
  setAttribute(name: string, value: string): void
  removeAttribute(name: string): void
  querySelectorAll(selector: string): Iterable<Element>
  append(...children: readonly Child[]): void
  replaceChildren(...children: readonly Child[]): void
}
export type Child = Element | string

interface Document {
  readonly head: Element
  readonly body: Element
  createElement(tag: string): Element
  toString(): string
}

const empty = '<!doctype html><html lang="en"><head></head><body></body></html>'
export const { document } = parseHTML(empty) as unknown as { readonly document: Document }

/** Creates an element with attributes and children. */
export function h(tag: string, attributes: Readonly<Record<string, string>>, ...children: readonly Child[]): Element {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/**
 * A self-contained page: no other files, scripts or network access.
 *
 * @param data machine-readable results, the same as with --json
 */
export function htmlPage(title: string, style: string, body: readonly Child[], data: unknown): string {
  document.head.replaceChildren(
    h('meta', { charset: 'utf-8' }),
    h('meta', { name: 'viewport', content: 'width=device-width, initial-scale=1' }),
    // linkedom writes the text of a title without escaping it.
    h('title', {}, title.replaceAll('&', '&amp;').replaceAll('<', '&lt;')),
    h('style', {}, style),
  )
  // Escaping `<` keeps the data from closing its script element.
  const json = jsonText(data).replaceAll('<', '\\u003c')
  document.body.replaceChildren(h('main', {}, ...body), h('script', { type: 'application/json', id: 'report' }, json))
  return `${document.toString()}\n`
}
