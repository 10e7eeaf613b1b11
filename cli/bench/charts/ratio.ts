import * as Plot from '@observablehq/plot'
import type { Pass } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, HEIGHT, labelled, logarithmic, plot } from '../../report/chart.js'
import type { Element } from '../../report/document.js'
import { legend } from '../../report/legend.js'
import { ratioToEqualParameters, type Row, sectionsOf } from '../rows.js'
import { methodStyles, passText } from './method-styles.js'

/** Ratios of Lily to LoRA by shape. */
export function ratioChart(rows: readonly Row[]): Element | null {
  const section = largestSection(rows)
  if (section.length === 0) return null
  const marks = section.flatMap((row) => {
    const { shape, pass, lily } = row
    const equal = ratioToEqualParameters(row)
    const mark = { label: shapeText(shape), pass, to: 'rank', ratio: lily.ratioToLora, color: methodStyles.lora.color }
    if (equal === null) return [mark]
    const color = methodStyles['lora-equal-parameters'].color
    return [mark, { ...mark, to: 'parameters', ratio: equal, color }]
  })
  const labels = labelsOf(section)
  const { marginLeft, y } = labelled(labels)
  const dot = { x: 'ratio', y: 'label', stroke: 'color', strokeWidth: 1.5, r: 3.5, title: titleOf } as const
  const { dtype, routing } = section[0]
  return figure(
    'Time of Lily relative to LoRA',
    `By shape (M, d, r, E); ${dtype}, ${routing} routing. Lily is faster to the left of the line.`,
    legend('dot', [
      { text: 'LoRA of the same rank', color: methodStyles.lora.color },
      { text: 'LoRA with equal parameters', color: methodStyles['lora-equal-parameters'].color },
      { text: 'forward', color: 'var(--muted)', hollow: true },
      { text: 'forward + backward', color: 'var(--muted)' },
    ]),
    plot('Ratio of the time of Lily to the time of LoRA by shape', {
      height: ratioHeight(rows),
      marginLeft,
      x: { ...logarithmic([0.95, 1.05, ...marks.map(({ ratio }) => ratio)]), label: 'Lily / LoRA', inset: 6 },
      y: { ...y, tickSize: 0 },
      marks: [
        Plot.ruleX([1], { strokeWidth: 1.5 }),
        Plot.ruleY(labels, { strokeOpacity: 0.1 }),
        Plot.dot(marks, { ...dot, filter: ({ pass }: { pass: Pass }) => pass !== 'forward', fill: 'color' }),
        Plot.dot(marks, { ...dot, filter: ({ pass }: { pass: Pass }) => pass === 'forward', fill: 'var(--surface)' }),
      ],
    }),
  )
}

const titleOf = ({ label, pass, to, ratio }: { label: string; pass: Pass; to: string; ratio: number }): string =>
  `${label}, ${passText(pass)}: ${ratio.toFixed(2)} relative to LoRA ${to === 'rank' ? 'of the same rank' : 'with equal parameters'}`

/** The rows of the data type and routing with the most shapes. */
const largestSection = (rows: readonly Row[]): readonly Row[] =>
  [...sectionsOf(rows).values()].reduce((most, each) => (each.length > most.length ? each : most), [])

const labelsOf = (rows: readonly Row[]): string[] => [...new Set(rows.map(({ shape }) => shapeText(shape)))]

/** One line per shape. The neighbouring charts have the same height. */
export const ratioHeight = (rows: readonly Row[]): number =>
  Math.max(HEIGHT, 56 + 16 * labelsOf(largestSection(rows)).length)
