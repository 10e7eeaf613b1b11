/** Legends for charts. */
import { h, type Element } from './document.js'

export type Key = {
  readonly text: string
  readonly color: string
  readonly dash?: string
  readonly hollow?: boolean
  /** A character in the place of the sample. */
  readonly mark?: string
}

/** A legend with a continuous scale of colors, and a label at its beginning, in its middle and at its end. */
export const ramp = (colors: readonly string[], labels: readonly [string, string, string]): Element =>
  h(
    'div',
    { class: 'ramp' },
    h('span', { style: `background: linear-gradient(to right, ${colors.join(', ')})` }),
    ...labels.map((text) => h('span', {}, text)),
  )

/** A legend with lines or dots as samples. */
export function legend(kind: 'line' | 'dot', keys: readonly Key[]): Element {
  return h(
    'ul',
    { class: 'legend' },
    ...keys.map(({ text, color, dash, hollow, mark }) => {
      if (mark !== undefined) return h('li', {}, h('strong', { style: `color: ${color}` }, mark), text)
      const line = `border-top: 2px ${dash === undefined ? 'solid' : 'dashed'} ${color}`
      const dot = `border: 2px solid ${color}; background: ${hollow === true ? 'none' : color}`
      return h('li', {}, h('span', { class: kind, style: kind === 'line' ? line : dot }), text)
    }),
  )
}
