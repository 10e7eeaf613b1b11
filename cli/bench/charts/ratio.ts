import * as Plot from '@observablehq/plot'
import type { Pass } from '../../../bench/methods/methods.js'
import { shapeText } from '../../../bench/workload/shapes.js'
import { figure, HEIGHT, labelled, logarithmic, plot } from '../../../report/chart.js'
import type { Element } from '../../../report/document.js'
import { legend } from '../../../report/legend.js'
import { type Ratio, ratioToEqualParameters, ratioToLora, type Row, sectionsOf } from '../rows.js'
import { methodStyles, passText } from './method-styles.js'
import { disturbedKey, disturbedMark, isNoisy, type Spread, spreadOf, WHISKERS } from './noise.js'

/** The height of a line of marks. */
const LINE = 6

/** Ratios of Lily to LoRA by shape. */
export function ratioChart(rows: readonly Row[]): Element | null {
  const section = largestSection(rows)
  if (section.length === 0) return null
  const marks = section.flatMap((row): Mark[] => {
    const equal = ratioToEqualParameters(row)
    return [
      markOf(row, 'lora', ratioToLora(row)),
      ...(equal === null ? [] : [markOf(row, 'lora-equal-parameters', equal)]),
    ]
  })
  const labels = labelsOf(section)
  const { marginLeft, y } = labelled(labels)
  const { dtype, routing } = section[0]
  return figure(
    'Time of Lily relative to LoRA',
    `By shape (M, d, r, E); ${dtype}, ${routing} routing. Lily is faster to the left of the line. ${WHISKERS}`,
    legend('dot', [
      { text: 'LoRA of the same rank', color: methodStyles.lora.color },
      { text: 'LoRA with equal parameters', color: methodStyles['lora-equal-parameters'].color },
      { text: 'forward', color: 'var(--muted)', hollow: true },
      { text: 'forward + backward', color: 'var(--muted)' },
      ...disturbedKey(marks),
    ]),
    plot('Ratio of the time of Lily to the time of LoRA by shape', {
      height: ratioHeight(rows),
      marginLeft,
      x: {
        ...logarithmic([0.95, 1.05, ...marks.flatMap(({ low, high }) => [low, high])]),
        label: 'Lily / LoRA',
        inset: 6,
      },
      y: { ...y, tickSize: 0 },
      marks: [
        Plot.ruleX([1], { strokeWidth: 1.5 }),
        Plot.ruleY(labels, { strokeOpacity: 0.1 }),
        ...lines.flatMap((line) =>
          lineMarks(
            marks.filter((mark) => mark.pass === line.pass && mark.to === line.to),
            line,
          ),
        ),
      ],
    }),
  )
}

interface Mark extends Spread {
  readonly label: string
  readonly pass: Pass
  readonly to: 'lora' | 'lora-equal-parameters'
  readonly isDisturbed: boolean
}

function markOf({ shape, pass }: Row, to: Mark['to'], ratio: Ratio): Mark {
  return { label: shapeText(shape), pass, to, isDisturbed: isNoisy(ratio), ...spreadOf(ratio) }
}

/** The lines of marks in the row of a shape, from top to bottom, with their distance from its middle. */
const lines = (['forward', 'forward+backward'] as const).flatMap((pass, p) =>
  (['lora', 'lora-equal-parameters'] as const).map((to, t) => ({ pass, to, dy: (2 * p + t - 1.5) * LINE })),
)

function lineMarks(marks: readonly Mark[], { pass, to, dy }: (typeof lines)[number]) {
  const { color } = methodStyles[to]
  const fill = pass === 'forward' ? 'var(--surface)' : color
  const title = ({ label, value }: Mark): string =>
    `${label}, ${passText(pass)}: ${value.toFixed(2)} relative to ${methodStyles[to].text}`
  return [
    Plot.ruleY(marks, { x1: 'low', x2: 'high', y: 'label', stroke: color, strokeWidth: 1.5, dy }),
    Plot.dot(marks, { x: 'value', y: 'label', stroke: color, strokeWidth: 1.5, r: 3, fill, title, dy }),
    disturbedMark(marks, { x: 'high', y: 'label', dx: 7, dy }),
  ]
}

/** The rows of the data type and routing with the most shapes. */
const largestSection = (rows: readonly Row[]): readonly Row[] =>
  [...sectionsOf(rows).values()].reduce((most, each) => (each.length > most.length ? each : most), [])

const labelsOf = (rows: readonly Row[]): string[] => [...new Set(rows.map(({ shape }) => shapeText(shape)))]

/** Four lines of marks per shape. The neighbouring charts have the same height. */
export const ratioHeight = (rows: readonly Row[]): number =>
  Math.max(HEIGHT, 56 + 5 * LINE * labelsOf(largestSection(rows)).length)
