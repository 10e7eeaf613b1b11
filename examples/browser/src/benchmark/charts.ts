/** The charts of the benchmark. */
import * as Plot from '@observablehq/plot'
import { EQUAL, figure, labelled, LILY, logarithmic, LORA, plot } from '../charts.js'
import { milliseconds } from '../format.js'
import { caseText } from './cases.js'
import type { Row } from './measure.js'
import type { Quartiles } from './statistics.js'

/** The height of a chart with two lines of marks for each shape. */
const heightOf = (shapes: number): number => Math.max(150, 64 + 64 * shapes)

interface Mark extends Quartiles {
  readonly label: string
  readonly pass: Row['pass']
  readonly color: string
  /** Distance from the middle of the row, in pixels. */
  readonly dy: number
  readonly title: string
}

/** Ratios of Lily to LoRA by shape. */
export function ratioChart(rows: readonly Row[]): HTMLElement {
  const marks = rows.flatMap((row): Mark[] => {
    const { pass, toLora, toLoraEqual } = row
    const label = caseText(row.shape)
    const title = (name: string, { median }: Quartiles) =>
      `${label}, ${pass}: ${median.toFixed(2)} of the time of ${name}`
    const isForward = pass === 'forward'
    return [
      { ...toLora, label, pass, color: LORA, dy: isForward ? -17 : 8, title: title('LoRA of the same rank', toLora) },
      {
        ...toLoraEqual,
        label,
        pass,
        color: EQUAL,
        dy: isForward ? -8 : 17,
        title: title('LoRA with as many parameters', toLoraEqual),
      },
    ]
  })
  const chart = dots(marks, 'time of Lily / time of LoRA', [0.95, 1.05])
  return figure(
    'Time of Lily relative to LoRA',
    'By shape (tokens, features, rank, experts). Left of the line Lily is faster. Bars reach from quartile to quartile.',
    [{ text: 'LoRA of the same rank', color: LORA }, { text: 'LoRA with as many parameters', color: EQUAL }, ...PASSES],
    chart,
  )
}

/** Times by shape. */
export function timeChart(rows: readonly Row[]): HTMLElement {
  const marks = rows.flatMap((row): Mark[] => {
    const { pass, lily, lora, loraEqual } = row
    const label = caseText(row.shape)
    const first = pass === 'forward' ? -20 : 6
    return [
      { quartiles: lily, name: 'Lily', color: LILY, dy: first },
      { quartiles: lora, name: 'LoRA of the same rank', color: LORA, dy: first + 7 },
      { quartiles: loraEqual, name: 'LoRA with as many parameters', color: EQUAL, dy: first + 14 },
    ].map(({ quartiles: { lower, median, upper }, name, color, dy }) => ({
      label,
      pass,
      color,
      dy,
      lower: lower * 1e3,
      median: median * 1e3,
      upper: upper * 1e3,
      title: `${label}, ${pass}, ${name}: ${milliseconds(median)} ms`,
    }))
  })
  const chart = dots(marks, 'milliseconds per call')
  return figure(
    'Time of a call',
    'By shape (tokens, features, rank, experts), on a logarithmic scale.',
    [
      { text: 'Lily', color: LILY },
      { text: 'LoRA of the same rank', color: LORA },
      { text: 'LoRA with as many parameters', color: EQUAL },
      ...PASSES,
    ],
    chart,
  )
}

const PASSES = [
  { text: 'forward', color: 'var(--muted)', isHollow: true },
  { text: 'forward + backward', color: 'var(--muted)' },
]

function dots(marks: readonly Mark[], axis: string, shown: readonly number[] = []): Element {
  const labels = [...new Set(marks.map(({ label }) => label))]
  const { marginLeft, y } = labelled(labels)
  const scale = logarithmic([...shown, ...marks.flatMap(({ lower, median, upper }) => [lower, median, upper])])
  return plot(`${axis}. ${marks.map(({ title }) => title).join('; ')}`, {
    height: heightOf(labels.length),
    marginLeft,
    x: { ...scale, label: axis, labelAnchor: 'center', labelArrow: 'none', inset: 8 },
    y: { ...y, type: 'point', padding: 0.6 },
    marks: [
      ...(shown.length > 0 ? [Plot.ruleX([1], { strokeWidth: 1.5 })] : []),
      Plot.ruleY(labels, { strokeOpacity: 0.1 }),
      // One pair of marks for each distance, which is an option of marks.
      ...[...new Set(marks.map(({ dy }) => dy))].flatMap((dy) => {
        const some = marks.filter((mark) => mark.dy === dy)
        const fill = ({ pass, color }: Mark) => (pass === 'forward' ? 'var(--surface)' : color)
        return [
          Plot.ruleY(some, { x1: 'lower', x2: 'upper', y: 'label', stroke: 'color', strokeWidth: 2, dy }),
          Plot.dot(some, {
            x: 'median',
            y: 'label',
            stroke: 'color',
            strokeWidth: 1.5,
            r: 3.5,
            fill,
            dy,
            title: 'title',
          }),
        ]
      }),
    ],
  })
}
