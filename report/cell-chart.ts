/** A chart of cells, such as a matrix. */
import * as Plot from '@observablehq/plot'
import { figure, heightOfRows, labelled, plot } from './chart.js'
import type { Element } from './document.js'
import { twoDecimals } from './format.js'
import { ramp } from './legend.js'

const ABOVE = 'var(--lily)'
const BELOW = 'var(--lora)'

/** Up to this number of columns, cells have room for their numbers. */
const MAX_NUMBERED_COLUMNS = 8

export interface Cell {
  /** Index of the expert. */
  readonly x: number
  readonly y: string
  readonly value: number
}

/** A diverging scale of colors around a middle value, which has none. */
export interface Scale {
  readonly middle: number
  /** The distance from the middle at which the color is full. */
  readonly reach: number
  /** What the legend says of the lower end, of the middle and of the upper end. */
  readonly labels: readonly [string, string, string]
}

export const cosineScale: Scale = { middle: 0, reach: 1, labels: ['-1, opposite', '0', '1, same direction'] }

/** Weights of E experts around 1/E, the weight of each if all are equal. */
export function weightScale(experts: number): Scale {
  const middle = 1 / experts
  return { middle, reach: middle, labels: ['0', `1/E = ${Number(middle.toPrecision(2))}, all equal`, '≥ 2/E'] }
}

/**
 * Cells with a row for each label and a column for each expert. Opacity shows the distance from the middle of the scale, color
 * its side: legible in both light and dark mode.
 */
export function cellChart({
  title,
  text,
  cells,
  rows,
  scale: { middle, reach, labels },
}: {
  readonly title: string
  readonly text: string
  readonly cells: readonly Cell[]
  readonly rows: readonly string[]
  readonly scale: Scale
}): Element {
  const columns = [...new Set(cells.map(({ x }) => x))]
  const opacity = ({ value }: Cell) => Math.min(1, Math.abs(value - middle) / reach)
  const place = { x: 'x', y: 'y' } as const
  const { marginLeft, y } = labelled(rows)
  return figure(
    title,
    text,
    ramp([BELOW, 'var(--surface)', ABOVE], labels),
    plot(text, {
      height: heightOfRows(rows.length),
      marginLeft,
      x: { domain: columns, label: 'expert', type: 'band' },
      y: { ...y, type: 'band' },
      marks: [
        Plot.cell(cells, {
          ...place,
          inset: 0.5,
          fill: ({ value }: Cell) => (value < middle ? BELOW : ABOVE),
          fillOpacity: opacity,
          stroke: 'var(--line)',
          title: ({ x, y, value }: Cell) => `${y}, expert ${x}: ${value.toFixed(3)}`,
        }),
        Plot.text(columns.length <= MAX_NUMBERED_COLUMNS ? cells : [], {
          ...place,
          text: ({ value }: Cell) => twoDecimals(value),
          fill: (cell: Cell) => (opacity(cell) > 0.65 ? 'var(--surface)' : 'var(--text)'),
          fontSize: 10,
        }),
      ],
    }),
  )
}
