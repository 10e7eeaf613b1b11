import * as Plot from '@observablehq/plot'
import type { Pass } from '../../../bench/report.js'
import { shapeText } from '../../../bench/shapes.js'
import type { Element } from '../../report/document.js'
import { legend } from '../../report/legend.js'
import { figure, HEIGHT, LABEL_MARGIN, logarithmic, plot } from '../../report/plot.js'
import { looks, short } from '../looks.js'
import { type Row, sectionsOf } from '../rows.js'

/** Ratios of Lily to LoRA, shape by shape. */
export function ratioChart(rows: readonly Row[]): Element | null {
  const ofMostRows = mostAlike(rows)
  if (ofMostRows.length === 0) return null
  const marks = ofMostRows.flatMap(({ shape, pass, lily, by }) => {
    const equal = by.get('lora-equal-parameters')
    const mark = { label: shapeText(shape), pass, to: 'rank', ratio: lily.ratioToLora, color: looks.lora.color }
    if (equal === undefined) return [mark]
    const color = looks['lora-equal-parameters'].color
    return [mark, { ...mark, to: 'parameters', ratio: lily.ratioToLora / equal.ratioToLora, color }]
  })
  const labels = labelsOf(ofMostRows)
  const dot = { x: 'ratio', y: 'label', stroke: 'color', strokeWidth: 1.5, r: 3.5, title: titleOf } as const
  const { dtype, routing } = ofMostRows[0]
  return figure(
    'Time of Lily over LoRA',
    `Left of the line Lily is faster. M, d, r, E; ${dtype}, ${routing} routing.`,
    legend('dot', [
      { text: 'to the same rank', color: looks.lora.color },
      { text: 'to equal parameters', color: looks['lora-equal-parameters'].color },
      { text: 'forward', color: 'var(--muted)', hollow: true },
      { text: 'forward + backward', color: 'var(--muted)' },
    ]),
    plot('Ratio of the time of Lily to that of LoRA, for each shape', {
      height: ratioHeight(rows),
      marginLeft: LABEL_MARGIN,
      x: { ...logarithmic([0.95, 1.05, ...marks.map(({ ratio }) => ratio)]), label: 'Lily / LoRA' },
      y: { domain: labels, label: null, tickSize: 0 },
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
  `${label}, ${short(pass)}: ${ratio.toFixed(2)} of LoRA of ${to === 'rank' ? 'the same rank' : 'equal parameters'}`

/** The rows of the data type and routing that most shapes were measured with. */
const mostAlike = (rows: readonly Row[]): readonly Row[] =>
  [...sectionsOf(rows).values()].reduce((most, each) => (each.length > most.length ? each : most), [])

const labelsOf = (rows: readonly Row[]): string[] => [...new Set(rows.map(({ shape }) => shapeText(shape)))]

/** A line for each shape; the charts beside this one are as high. */
export const ratioHeight = (rows: readonly Row[]): number =>
  Math.max(HEIGHT, 56 + 16 * labelsOf(mostAlike(rows)).length)
