import * as Plot from '@observablehq/plot'
import type { Pass } from '../../../bench/methods/methods.js'
import { figure, logarithmic, plot } from '../../report/chart.js'
import type { Element } from '../../report/document.js'
import { milliseconds } from '../../report/format.js'
import { legend } from '../../report/legend.js'
import type { Row } from '../rows.js'
import { axes, familyAlong } from './families.js'
import { methodStyles, passText } from './method-styles.js'

const shown = ['lily', 'lora', 'lora-equal-parameters', 'lily-composed', 'lily-graph', 'floor'] as const

interface Point {
  readonly x: number
  /** Milliseconds. */
  readonly y: number
  readonly method: (typeof shown)[number]
}

/** Time by r or by M. */
export function sweepChart(axis: 'rank' | 'tokens', pass: Pass, rows: readonly Row[]): Element | null {
  const family = familyAlong(
    axes[axis],
    rows.filter((row) => row.pass === pass),
    3,
  )
  if (family.length === 0) return null
  const { shape, dtype, routing } = family[0]
  const points = family.flatMap((row) =>
    shown.flatMap((method): Point[] => {
      const seconds = method === 'floor' ? row.lily.floor : row.by.get(method)?.median
      return seconds == null ? [] : [{ x: axes[axis].value(row), y: seconds * 1e3, method }]
    }),
  )
  const name = axis === 'rank' ? 'r' : 'M'
  const fixed = axis === 'rank' ? `M = ${shape.tokens}` : `r = ${shape.rank}`
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b)
  return figure(
    `Time by ${name}: ${passText(pass)}`,
    `Milliseconds; ${fixed}, d = ${shape.d}, E = ${shape.experts}; ${dtype}, ${routing} routing.`,
    legend(
      'line',
      shown.filter((method) => points.some((point) => point.method === method)).map((method) => methodStyles[method]),
    ),
    plot(`Milliseconds by ${name}`, {
      x: { type: 'log', label: name, ticks: xs, grid: true },
      y: { ...logarithmic(points.map(({ y }) => y)), label: 'ms' },
      marks: [
        ...shown.map((method) =>
          Plot.line(points, {
            filter: (point: Point) => point.method === method,
            x: 'x',
            y: 'y',
            sort: 'x',
            stroke: methodStyles[method].color,
            strokeWidth: method === 'lily' ? 2.5 : 1.5,
            strokeDasharray: methodStyles[method].dash,
          }),
        ),
        Plot.dot(points, {
          x: 'x',
          y: 'y',
          r: ({ method }: Point) => (methodStyles[method].dash === undefined ? 2.5 : 1.5),
          fill: ({ method }: Point) => methodStyles[method].color,
          title: ({ x, y, method }: Point) =>
            `${methodStyles[method].text}, ${name} = ${x}: ${milliseconds(y / 1e3)} ms`,
        }),
      ],
      r: { type: 'identity' },
    }),
  )
}
