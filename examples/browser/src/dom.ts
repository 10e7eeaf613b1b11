/** Elements that the panels share. */

export type Child = Node | string

/** Creates an element with attributes and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

export interface Tile {
  readonly value: string
  readonly text: string
}

/** Numbers with their descriptions. */
export const tiles = (list: readonly Tile[]): HTMLElement =>
  h(
    'dl',
    { class: 'tiles' },
    ...list.map(({ value, text }) => h('div', { class: 'tile' }, h('dt', {}, text), h('dd', {}, value))),
  )

/**
 * A table in a box that scrolls on small screens. The first cell of a row is its heading.
 *
 * @param label for screen readers
 */
export function table(label: string, head: readonly string[], rows: readonly (readonly Child[])[]): HTMLElement {
  const body = rows.map(([first, ...cells]) =>
    h('tr', {}, h('th', { scope: 'row' }, first), ...cells.map((cell) => h('td', {}, cell))),
  )
  const titles = h('tr', {}, ...head.map((title) => h('th', { scope: 'col' }, title)))
  return h(
    'div',
    { class: 'box', tabindex: '0', role: 'region', 'aria-label': label },
    h('table', {}, h('thead', {}, titles), h('tbody', {}, ...body)),
  )
}

/** What a reader has to know; an error is announced by its parent, which is a live region. */
export function notice(kind: 'note' | 'error', title: string, ...children: readonly Child[]): HTMLElement {
  return h('div', { class: `notice ${kind}` }, h('p', { class: 'title' }, title), ...children)
}

/** Lets the page react and draw. */
export const pause = (milliseconds = 0): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, milliseconds)
  })
