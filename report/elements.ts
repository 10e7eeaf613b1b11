/** Elements that the HTML reports share. */
import { type Element, h } from './document.js'

/** A number with its description, shown at the top of a report. */
export interface Tile {
  readonly value: string
  readonly text: string
}

export const tiles = (list: readonly Tile[]): Element =>
  h(
    'dl',
    { class: 'tiles' },
    ...list.map(({ value, text }) => h('div', { class: 'tile' }, h('dt', {}, text), h('dd', {}, value))),
  )

export const charts = (list: readonly Element[]): Element => h('div', { class: 'charts' }, ...list)

/** A table in a box that scrolls on small screens. `label` is for screen readers. */
export const scrollable = (label: string, table: Element): Element =>
  h('div', { class: 'box', tabindex: '0', role: 'region', 'aria-label': label }, table)

export const tableOf = (head: readonly Element[], body: readonly Element[]): Element =>
  h('table', {}, h('thead', {}, h('tr', {}, ...head)), h('tbody', {}, ...body))

export const columnHeader = (title: string, attributes: Readonly<Record<string, string>> = {}): Element =>
  h('th', { scope: 'col', ...attributes }, title)

export const rowHeader = (title: string, attributes: Readonly<Record<string, string>> = {}): Element =>
  h('th', { scope: 'row', ...attributes }, title)

/** Terms and their definitions. */
export const definitions = (items: readonly (readonly [term: string, text: string])[]): Element =>
  h('dl', { class: 'how' }, ...items.flatMap(([term, text]) => [h('dt', {}, term), h('dd', {}, text)]))
