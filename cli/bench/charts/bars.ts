import * as Plot from '@observablehq/plot'
import { type Method, type Pass, passes } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, HEIGHT, plot } from '../../report/chart.js'
import type { Element } from '../../report/document.js'
import { milliseconds } from '../../report/format.js'
import { legend } from '../../report/legend.js'
import type { Row } from '../rows.js'
import { axes, familyAlong } from './families.js'
import { methodStyles, passText } from './method-styles.js'

/** Time by data type or by routing. */
export function barChart(axis: 'dtype' | 'routing', rows: readonly Row[]): Element | null {
  const family = familyAlong(axes[axis], rows, 2)
  if (family.length === 0) return null
  const { shape, dtype, routing } = family[0]
  const bars = family.flatMap((row) =>
    [row.lora, row.lily].map((result) => ({
      name: axes[axis].value(row),
      ms: result.median * 1e3,
      pass: row.pass,
      method: result.method,
    })),
  )
  const names = [...new Set(bars.map(({ name }) => name))]
  return figure(
    axis === 'dtype' ? 'Time by data type' : 'Time by routing',
    `Milliseconds; ${shapeText(shape)}; ${axis === 'dtype' ? `${routing} routing` : dtype}. Light bars: forward + backward.`,
    legend('dot', [methodStyles.lily, methodStyles.lora]),
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
            filter: (bar: { pass: Pass }) => bar.pass === pass,
            x: 'ms',
            y: 'method',
            fy: 'name',
            fill: ({ method }: { method: Method }) => methodStyles[method].color,
            fillOpacity: pass === 'forward' ? 1 : 0.4,
            title: ({ name, ms, method }: { name: string; ms: number; method: Method }) =>
              `${methodStyles[method].text}, ${name}, ${passText(pass)}: ${milliseconds(ms / 1e3)} ms`,
          }),
        ),
        Plot.text(bars, {
          filter: (bar: { pass: Pass }) => bar.pass !== 'forward',
          x: 'ms',
          y: 'method',
          fy: 'name',
          text: ({ ms }: { ms: number }) => milliseconds(ms / 1e3),
          textAnchor: 'start',
          dx: 4,
        }),
        Plot.axisFy({ anchor: 'left', label: null, fontSize: 12 }),
        Plot.ruleX([0]),
      ],
    }),
  )
}
