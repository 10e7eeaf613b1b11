import * as Plot from '@observablehq/plot'
import type { Report } from '../../../bench/harness/report.js'
import { figure, plot } from '../../../report/chart.js'
import type { Element } from '../../../report/document.js'
import { legend } from '../../../report/legend.js'

/** Measured memory bandwidth by buffer size. */
export function memoryChart({ roofs }: Report, height: number): Element | null {
  if (roofs === null) return null
  const kinds = [
    { kind: 'read', text: 'read', color: 'var(--equal)' },
    { kind: 'update', text: 'updated in place', color: 'var(--memory)' },
  ] as const
  const points = roofs.memory.flatMap((level) =>
    kinds.map(({ kind, color }) => ({ bytes: level.bytes / 2 ** 20, rate: level[kind] / 1e9, kind, color })),
  )
  return figure(
    'Memory bandwidth',
    'By buffer size, measured in this run. Most calls are limited by memory bandwidth.',
    legend('line', kinds),
    plot('GB/s by buffer size', {
      height,
      x: { type: 'log', base: 2, label: 'MiB', grid: true, ticks: 6 },
      y: { label: 'GB/s', grid: true, zero: true, ticks: 6 },
      marks: [
        Plot.line(points, { x: 'bytes', y: 'rate', z: 'kind', stroke: 'color', strokeWidth: 2, marker: 'dot' }),
        Plot.ruleY([0]),
      ],
    }),
  )
}
