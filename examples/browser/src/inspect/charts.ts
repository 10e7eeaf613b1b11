/** The charts of one target. */
import * as Plot from '@observablehq/plot'
import type { SingularValueAnalysis, TargetAnalysis } from 'lily-kernels'
import { figure, heightOfRows, integerTicks, labelled, LILY, LORA, plot, ramp } from '../charts.js'
import { threeDigits, twoDecimals } from '../format.js'
import { RANDOM_TOKENS } from './random-inputs.js'

/** Up to this number of columns, cells have room for their numbers. */
const MAX_NUMBERED_COLUMNS = 8

/** The parts in which the names of the layers differ; the full name of a single layer. */
export function layerLabels(layers: readonly { readonly name: string }[]): string[] {
  const names = layers.map(({ name }) => name.split('.'))
  const isRagged = names.some((parts) => parts.length !== names[0].length)
  const differs = names[0].map((part, i) => names.some((parts) => parts[i] !== part))
  return names.map((parts) => {
    const differing = isRagged ? parts : parts.filter((_, i) => differs[i])
    return (differing.length === 0 ? parts : differing).join('.')
  })
}

/** The weights of the experts: learned ones, or those of routers on random inputs. */
export function mixtureMap({ layers }: TargetAnalysis, isLearned: boolean): HTMLElement {
  const labels = layerLabels(layers)
  const cells = layers.flatMap(({ router }, l) =>
    router.weights.map((value, e) => ({ x: e, y: labels[l], value, title: `layer ${labels[l]}, expert ${e}` })),
  )
  const text = isLearned
    ? 'Weight of each expert by layer.'
    : `Mean weight of each expert by layer, over ${RANDOM_TOKENS} random inputs.`
  return cellChart(
    isLearned ? 'Mixtures' : 'Routers',
    text,
    cells,
    labels,
    weightScale(layers[0].router.weights.length),
  )
}

export function cosineMap({ experts }: TargetAnalysis): HTMLElement {
  const labels = experts.cosines.map((_, e) => String(e))
  const cells = experts.cosines.flatMap((row, e) =>
    row.map((value, f) => ({ x: f, y: String(e), value, title: `experts ${e} and ${f}` })),
  )
  return cellChart('Experts', 'Cosine of each pair of experts, as vectors.', cells, labels, COSINES)
}

interface Cell {
  readonly x: number
  readonly y: string
  readonly value: number
  readonly title: string
}

/** A diverging scale of colours around a middle value, which has none. */
interface Scale {
  readonly middle: number
  /** The distance from the middle at which the colour is full. */
  readonly reach: number
  readonly labels: readonly [string, string, string]
}

const COSINES: Scale = { middle: 0, reach: 1, labels: ['-1, opposite', '0', '1, same direction'] }

/** Weights of E experts around 1/E, the weight of each if all are equal. */
function weightScale(experts: number): Scale {
  const middle = 1 / experts
  return { middle, reach: middle, labels: ['0', `1/E = ${Number(middle.toPrecision(2))}, all equal`, '≥ 2/E'] }
}

/** Opacity shows the distance from the middle, and colour its side: legible in light and in dark colours. */
function cellChart(
  title: string,
  text: string,
  cells: readonly Cell[],
  rows: readonly string[],
  { middle, reach, labels }: Scale,
): HTMLElement {
  const columns = [...new Set(cells.map(({ x }) => x))]
  const opacity = ({ value }: Cell) => Math.min(1, Math.abs(value - middle) / reach)
  const place = { x: 'x', y: 'y' } as const
  const { marginLeft, y } = labelled(rows)
  const values = cells.map(({ title, value }) => `${title}: ${twoDecimals(value)}`).slice(0, 64)
  const chart = plot(`${text} ${values.join('; ')}`, {
    height: heightOfRows(rows.length),
    marginLeft,
    x: { domain: columns, label: 'expert', type: 'band', tickSize: 0 },
    y: { ...y, type: 'band' },
    marks: [
      Plot.cell(cells, {
        ...place,
        inset: 0.5,
        fill: ({ value }: Cell) => (value < middle ? LORA : LILY),
        fillOpacity: opacity,
        stroke: 'var(--line)',
        title: ({ title, value }: Cell) => `${title}: ${value.toFixed(3)}`,
      }),
      Plot.text(columns.length <= MAX_NUMBERED_COLUMNS ? cells : [], {
        ...place,
        text: ({ value }: Cell) => twoDecimals(value),
        fill: (cell: Cell) => (opacity(cell) > 0.72 ? 'var(--surface)' : 'var(--text)'),
        fontSize: 11,
      }),
    ],
  })
  return figure(title, text, ramp([LORA, 'var(--surface)', LILY], labels), chart)
}

interface UpdatedLayer {
  readonly name: string
  readonly update: SingularValueAnalysis
}

/** @param lora rank of the LoRA that has as many parameters */
export function effectiveRanks(layers: readonly UpdatedLayer[], color: string, lora?: number): HTMLElement {
  const labels = layerLabels(layers)
  const { marginLeft, y } = labelled(labels)
  const bars = layers.map(({ update }, l) => ({ layer: labels[l], ...update }))
  // From 0 to 0, as of an adapter that is not trained, bars would fill the chart.
  const end = Math.ceil(Math.max(lora ?? 0, ...bars.map(({ effectiveRank }) => effectiveRank)) || 1)
  const values = bars.map(({ layer, effectiveRank }) => `${layer}: ${effectiveRank.toFixed(1)}`)
  const text =
    'Number of directions of the update of a layer: exp of the entropy of its singular values.' +
    (lora === undefined ? '' : ` LoRA with as many parameters has rank ${lora.toFixed(1)}.`)
  const chart = plot(`Effective rank by layer. ${values.join('; ')}`, {
    height: heightOfRows(labels.length),
    marginLeft,
    x: {
      domain: [0, end],
      label: 'effective rank',
      grid: true,
      ...integerTicks(end),
      labelAnchor: 'center',
      labelArrow: 'none',
    },
    y: { ...y, type: 'band', padding: 0.25 },
    marks: [
      Plot.barX(bars, {
        x: 'effectiveRank',
        y: 'layer',
        fill: color,
        title: ({ layer, effectiveRank, norm }: (typeof bars)[number]) =>
          `${layer}: effective rank ${effectiveRank.toFixed(1)}, norm ${threeDigits(norm)}`,
      }),
      ...(lora === undefined ? [] : [Plot.ruleX([lora], { stroke: LORA, strokeWidth: 2 })]),
      Plot.ruleX([0]),
    ],
  })
  return figure(
    'Effective rank',
    text,
    lora === undefined
      ? []
      : [
          { text: 'Lily', color },
          { text: 'maximum for LoRA', color: LORA },
        ],
    chart,
  )
}
