/** The document that the page is built in: a DOM escapes text and takes Plot's charts as they are. */
import { parseHTML } from 'linkedom'

/** What of the DOM is used here. The types of a browser would be global, and nothing here runs in one. */
export interface Element {
  readonly outerHTML: string
  setAttribute(name: string, value: string): void
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

/** An element with attributes and children. */
export function h(tag: string, attributes: Readonly<Record<string, string>>, ...children: readonly Child[]): Element {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/**
 * A whole page that needs no other file, no script and no network.
 *
 * @param data for programs: what --json writes
 */
export function pageWith(title: string, style: string, body: readonly Child[], data: unknown): string {
  document.head.replaceChildren(
    h('meta', { charset: 'utf-8' }),
    h('meta', { name: 'viewport', content: 'width=device-width, initial-scale=1' }),
    h('title', {}, title),
    h('style', {}, style),
  )
  // No text of the data may end its element.
  const json = JSON.stringify(data).replaceAll('<', '\\u003c')
  document.body.replaceChildren(...body, h('script', { type: 'application/json', id: 'report' }, json))
  return `${document.toString()}\n`
}
