import * as Plot from '@observablehq/plot'
import { passes } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, HEIGHT, plot } from '../../../report/chart.js'
import type { Element } from '../../../report/document.js'
import { milliseconds } from '../../../report/format.js'
import { legend } from '../../../report/legend.js'
import type { Row } from '../rows.js'
import { axes, familyAlong } from './families.js'
import { methodStyles, passText } from './method-styles.js'
import { disturbedKey, disturbedMark, spreadOf, WHISKERS } from './noise.js'

/** Time by data type or by routing. */
export function barChart(axis: 'dtype' | 'routing', rows: readonly Row[]): Element | null {
  const family = familyAlong(axes[axis], rows, 2)
  if (family.length === 0) return null
  const { shape, dtype, routing } = family[0]
  const bars = family.flatMap((row) =>
    [row.lora, row.lily].map((result) => ({
      name: axes[axis].value(row),
      ...spreadOf(result, 1e3),
      isDisturbed: result.doubts.length > 0,
      pass: row.pass,
      method: result.method,
    })),
  )
  type Bar = (typeof bars)[number]
  /** The end of the longer whisker. */
  const endOf = ({ name, method }: Bar): number =>
    Math.max(...bars.filter((bar) => bar.name === name && bar.method === method).map(({ high }) => high))
  const names = [...new Set(bars.map(({ name }) => name))]
  return figure(
    axis === 'dtype' ? 'Time by data type' : 'Time by routing',
    `Milliseconds; ${shapeText(shape)}; ${axis === 'dtype' ? `${routing} routing` : dtype}. Light bars: forward + backward. ${WHISKERS}`,
    legend('dot', [methodStyles.lily, methodStyles.lora, ...disturbedKey(bars)]),
    plot(`Milliseconds by ${axis === 'dtype' ? 'data type' : 'routing'}`, {
      height: Math.max(HEIGHT, 52 + 44 * names.length),
      marginLeft: 76,
      marginRight: 34,
      x: { label: null, grid: true, ticks: 5 },
      fy: { domain: names, label: null, padding: 0.25 },
      y: { domain: ['lily', 'lora'], axis: null, padding: 0.1 },
      marks: [
        ...[...passes].reverse().map((pass) =>
          Plot.barX(bars, {
            filter: (bar: Bar) => bar.pass === pass,
            x: 'value',
            y: 'method',
            fy: 'name',
            fill: ({ method }: Bar) => methodStyles[method].color,
            fillOpacity: pass === 'forward' ? 1 : 0.4,
            title: ({ name, value, method }: Bar) =>
              `${methodStyles[method].text}, ${name}, ${passText(pass)}: ${milliseconds(value / 1e3)} ms`,
          }),
        ),
        ...passes.flatMap((pass) => {
          const some = bars.filter((bar) => bar.pass === pass)
          // The bars of the two passes do not lie on one line.
          const dy = pass === 'forward' ? -3 : 3
          return [
            Plot.ruleY(some, { x1: 'low', x2: 'high', y: 'method', fy: 'name', stroke: 'var(--text)', dy }),
            disturbedMark(some, { x: 'value', y: 'method', fy: 'name', dx: -5 }),
          ]
        }),
        Plot.text(bars, {
          filter: (bar: Bar) => bar.pass !== 'forward',
          x: endOf,
          y: 'method',
          fy: 'name',
          text: ({ value }: Bar) => milliseconds(value / 1e3),
          textAnchor: 'start',
          dx: 5,
        }),
        Plot.axisFy({ anchor: 'left', label: null, fontSize: 12 }),
        Plot.ruleX([0]),
      ],
    }),
  )
}
