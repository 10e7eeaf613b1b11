import * as Plot from '@observablehq/plot'
import type { Pass } from '../../../bench/methods/methods.js'
import { figure, logarithmic, plot } from '../../../report/chart.js'
import type { Element } from '../../../report/document.js'
import { milliseconds } from '../../../report/format.js'
import { legend } from '../../../report/legend.js'
import type { Row } from '../rows.js'
import { axes, familyAlong } from './families.js'
import { methodStyles, passText } from './method-styles.js'
import { disturbedKey, disturbedMark, type Spread, spreadOf, WHISKERS } from './noise.js'

const shown = ['lily', 'lora', 'lora-equal-parameters', 'lily-composed', 'lily-graph', 'floor'] as const

/** The values are milliseconds. */
interface Point extends Spread {
  readonly x: number
  readonly isDisturbed: boolean
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
      const x = axes[axis].value(row)
      if (method === 'floor') {
        const { floor } = row.lily
        return floor === null
          ? []
          : [{ x, method, isDisturbed: false, ...spreadOf({ median: floor, spread: null }, 1e3) }]
      }
      const result = row.by.get(method)
      return result === undefined
        ? []
        : [{ x, method, isDisturbed: result.doubts.length > 0, ...spreadOf(result, 1e3) }]
    }),
  )
  const name = axis === 'rank' ? 'r' : 'M'
  const fixed = axis === 'rank' ? `M = ${shape.tokens}` : `r = ${shape.rank}`
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b)
  return figure(
    `Time by ${name}: ${passText(pass)}`,
    `Milliseconds; ${fixed}, d = ${shape.d}, E = ${shape.experts}; ${dtype}, ${routing} routing. ${WHISKERS}`,
    legend('line', [
      ...shown
        .filter((method) => points.some((point) => point.method === method))
        .map((method) => methodStyles[method]),
      ...disturbedKey(points),
    ]),
    plot(`Milliseconds by ${name}`, {
      x: { type: 'log', label: name, ticks: xs, grid: true },
      y: { ...logarithmic(points.flatMap(({ low, high }) => [low, high])), label: 'ms' },
      marks: [
        ...shown.map((method) =>
          Plot.line(points, {
            filter: (point: Point) => point.method === method,
            x: 'x',
            y: 'value',
            sort: 'x',
            stroke: methodStyles[method].color,
            strokeWidth: method === 'lily' ? 2.5 : 1.5,
            strokeDasharray: methodStyles[method].dash,
          }),
        ),
        Plot.ruleX(points, {
          x: 'x',
          y1: 'low',
          y2: 'high',
          stroke: ({ method }: Point) => methodStyles[method].color,
          strokeWidth: 1.5,
        }),
        Plot.dot(points, {
          x: 'x',
          y: 'value',
          r: ({ method }: Point) => (methodStyles[method].dash === undefined ? 2.5 : 1.5),
          fill: ({ method }: Point) => methodStyles[method].color,
          title: ({ x, value, method }: Point) =>
            `${methodStyles[method].text}, ${name} = ${x}: ${milliseconds(value / 1e3)} ms`,
        }),
        disturbedMark(points, { x: 'x', y: 'high', dy: -8 }),
      ],
      r: { type: 'identity' },
    }),
  )
}
