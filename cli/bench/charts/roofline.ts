import * as Plot from '@observablehq/plot'
import type { Report, Result } from '../../../bench/harness/report.js'
import type { Method } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, halo, logarithmic, plot } from '../../report/chart.js'
import type { Element } from '../../report/document.js'
import { giga, size } from '../../report/format.js'
import { legend } from '../../report/legend.js'
import type { Row } from '../rows.js'
import { methodStyles, passText } from './method-styles.js'

/** Attained FLOP/s by arithmetic intensity, below the memory and arithmetic roofs. */
export function rooflineChart(rows: readonly Row[], { roofs }: Report, height: number): Element | null {
  if (roofs === null) return null
  const shown: readonly Method[] = ['lily', 'lora', 'lily-composed']
  const marks = rows.flatMap(({ by }) => shown.flatMap((method) => by.get(method) ?? []))
  const intensities = marks.map(({ flops, bytes }) => flops / bytes)
  const [least, most] = [Math.min(...intensities) / 1.5, Math.max(...intensities) * 1.5]
  const gigaflops = ({ flops, median }: Result): number => flops / median / 1e9
  const top = Math.max(roofs.flops, roofs.bfloat16Flops)
  const levels = [roofs.memory[0], roofs.memory.at(-1)!]
  const bottom = Math.min(...marks.map(gigaflops)) / 1.5
  const slopes = levels.flatMap(({ bytes, read }) =>
    [Math.max(least, (bottom * 1e9) / read), Math.min(top / read, most)].map((x) => ({
      x,
      y: (x * read) / 1e9,
      text: `${size(bytes)}, ${giga(read)} GB/s`,
    })),
  )
  const flats = [
    { y: roofs.flops / 1e9, text: `float32 ${giga(roofs.flops)} GFLOP/s` },
    ...(roofs.bfloat16Flops > 1.2 * roofs.flops
      ? [{ y: roofs.bfloat16Flops / 1e9, text: `bfloat16 ${giga(roofs.bfloat16Flops)} GFLOP/s` }]
      : []),
  ]
  return figure(
    'Roofline',
    'Attained GFLOP/s by FLOPs per byte of the minimum traffic, with the roofs of this machine.',
    legend('dot', [
      { text: 'Lily', color: methodStyles.lily.color },
      { text: 'Lily, unfused', color: methodStyles.lily.color, hollow: true },
      { text: 'LoRA of the same rank', color: methodStyles.lora.color },
    ]),
    plot('Roofline: GFLOP/s by arithmetic intensity', {
      x: { ...logarithmic([least, most]), label: 'FLOP / byte' },
      y: { ...logarithmic([bottom, top / 1e9]), label: 'GFLOP/s' },
      height,
      marginTop: 32,
      marks: [
        Plot.line(slopes, { x: 'x', y: 'y', z: 'text', stroke: 'var(--muted)' }),
        Plot.ruleY(flats, { y: 'y', stroke: 'var(--muted)' }),
        Plot.text(slopes, {
          ...Plot.selectFirst({ x: 'x', y: 'y', z: 'text' }),
          ...halo,
          text: 'text',
          textAnchor: 'start',
          dx: 16,
          dy: -8,
        }),
        Plot.text(flats, { ...halo, y: 'y', text: 'text', frameAnchor: 'right', textAnchor: 'end', dy: 8 }),
        Plot.dot(marks, {
          x: ({ flops, bytes }: Result) => flops / bytes,
          y: gigaflops,
          stroke: ({ method }: Result) => methodStyles[method].color,
          fill: ({ method }: Result) => (method === 'lily-composed' ? 'none' : methodStyles[method].color),
          fillOpacity: 0.55,
          r: 3,
          title: (result: Result) =>
            `${methodStyles[result.method].text}, ${shapeText(result.shape)}, ${result.dtype}, ${result.routing}, ` +
            `${passText(result.pass)}: ${gigaflops(result).toFixed(0)} GFLOP/s`,
        }),
      ],
    }),
  )
}
