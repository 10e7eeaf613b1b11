import * as Plot from '@observablehq/plot'
import type { Report } from '../../../bench/report.js'
import type { Element } from '../../report/document.js'
import { legend } from '../../report/legend.js'
import { figure, plot } from '../../report/plot.js'

/** Measured bandwidth by the size of the buffer. */
export function memoryChart({ roofs }: Report, height: number): Element | null {
  if (roofs === null) return null
  const kinds = [
    { kind: 'read', text: 'read', color: 'var(--equal)' },
    { kind: 'update', text: 'read and written in place', color: 'var(--memory)' },
  ] as const
  const points = roofs.memory.flatMap((level) =>
    kinds.map(({ kind, color }) => ({ bytes: level.bytes / 2 ** 20, rate: level[kind] / 1e9, kind, color })),
  )
  return figure(
    'Memory',
    'Bandwidth by the size of the buffer, measured in this run: the roof that most calls meet.',
    legend('line', kinds),
    plot('GB/s over the size of the buffer', {
      height,
      x: { type: 'log', base: 2, label: 'MiB', grid: true, ticks: [0.25, 1, 4, 16, 64, 256] },
      y: { label: 'GB/s', grid: true, zero: true },
      marks: [
        Plot.line(points, { x: 'bytes', y: 'rate', z: 'kind', stroke: 'color', strokeWidth: 2, marker: 'dot' }),
        Plot.ruleY([0]),
      ],
    }),
  )
}
