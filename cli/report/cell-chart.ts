/** A chart of cells, such as a matrix. */
import * as Plot from '@observablehq/plot'
import { figure, heightOfRows, labelled, plot } from './chart.js'
import type { Element } from './document.js'
import { twoDecimals } from './format.js'
import { type Key, legend } from './legend.js'

const POSITIVE = 'var(--lily)'
const NEGATIVE = 'var(--lora)'

/** Up to this number of columns, cells have room for their numbers. */
const MAX_NUMBERED_COLUMNS = 8

export interface Cell {
  /** Index of the expert. */
  readonly x: number
  readonly y: string
  readonly value: number
}

/**
 * Cells with a row for each label and a column for each expert. Opacity shows magnitude, color shows sign: legible in both
 * light and dark mode.
 */
export function cellChart({
  title,
  text,
  cells,
  rows,
  max,
  keys,
}: {
  readonly title: string
  readonly text: string
  readonly cells: readonly Cell[]
  readonly rows: readonly string[]
  /** The value with full opacity. */
  readonly max: number
  readonly keys: readonly Key[]
}): Element {
  const columns = [...new Set(cells.map(({ x }) => x))]
  const opacity = ({ value }: Cell) => (max > 0 ? Math.abs(value) / max : 0)
  const place = { x: 'x', y: 'y' } as const
  const { marginLeft, y } = labelled(rows)
  return figure(
    title,
    text,
    legend('dot', keys),
    plot(text, {
      height: heightOfRows(rows.length),
      marginLeft,
      x: { domain: columns, label: 'expert', type: 'band' },
      y: { ...y, type: 'band' },
      marks: [
        Plot.cell(cells, {
          ...place,
          inset: 0.5,
          fill: ({ value }: Cell) => (value < 0 ? NEGATIVE : POSITIVE),
          fillOpacity: opacity,
          stroke: 'var(--line)',
          title: ({ x, y, value }: Cell) => `${y}, expert ${x}: ${value.toFixed(3)}`,
        }),
        Plot.text(columns.length <= MAX_NUMBERED_COLUMNS ? cells : [], {
          ...place,
          text: ({ value }: Cell) => twoDecimals(value),
          fill: (cell: Cell) => (opacity(cell) > 0.55 ? 'var(--surface)' : 'var(--text)'),
          fontSize: 10,
        }),
      ],
    }),
  )
}
