/** The charts of one target, drawn by Observable Plot into SVG: no script runs in the page. */
import * as Plot from '@observablehq/plot'
import type { TargetAnalysis } from '../../lib/index.js'
import type { Element } from '../report/document.js'
import { type Key, legend } from '../report/legend.js'
import { figure, HEIGHT, plot } from '../report/plot.js'
import { isRouted, labelsOf, percent, short, twoDigits } from './inspection.js'

const LILY = 'var(--lily)'
const LORA = 'var(--lora)'

/** Cells with their numbers in them, where these have room. */
const MOST_NUMBERS = 8

const rowsHigh = (rows: number): number => Math.max(HEIGHT, 60 + 15 * rows)

/** Those that what was found allows. */
export function targetCharts(target: TargetAnalysis): Element[] {
  const routed = isRouted(target) ? [routerMap(target), entropies(target)] : []
  return [...routed, effectiveRanks(target), spectra(target), cosines(target), norms(target)]
}

function routerMap({ layers }: TargetAnalysis): Element {
  const labels = labelsOf(layers)
  const cells = layers.flatMap(({ router }, l) =>
    router.weights.map((weight, e) => ({ layer: labels[l], expert: e, weight })),
  )
  return cellChart({
    title: 'Router',
    text: 'Mean weight of each expert, by layer.',
    cells: cells.map(({ layer, expert, weight }) => ({ x: expert, y: layer, value: weight })),
    rows: labels,
    most: Math.max(...cells.map(({ weight }) => Math.abs(weight))),
    keys: [{ text: 'weight', color: LILY }],
  })
}

function cosines({ experts }: TargetAnalysis): Element {
  const cells = experts.cosines.flatMap((row, e) => row.map((value, f) => ({ x: f, y: String(e), value })))
  return cellChart({
    title: 'Experts',
    text: 'Cosine of each two, as vectors.',
    cells,
    rows: experts.cosines.map((_, e) => String(e)),
    most: 1,
    keys: [
      { text: 'alike', color: LILY },
      { text: 'opposite', color: LORA },
    ],
  })
}

interface Cell {
  readonly x: number
  readonly y: string
  readonly value: number
}

/** Opacity is the size of a number, and colour its sign: both are good on light and dark. */
function cellChart({
  title,
  text,
  cells,
  rows,
  most,
  keys,
}: {
  readonly title: string
  readonly text: string
  readonly cells: readonly Cell[]
  readonly rows: readonly string[]
  readonly most: number
  readonly keys: readonly Key[]
}): Element {
  const columns = [...new Set(cells.map(({ x }) => x))]
  const opacity = ({ value }: Cell) => (most > 0 ? Math.abs(value) / most : 0)
  const place = { x: 'x', y: 'y' } as const
  return figure(
    title,
    text,
    legend('dot', keys),
    plot(text, {
      height: rowsHigh(rows.length),
      x: { domain: columns, label: 'expert', type: 'band' },
      y: { domain: rows, label: null, type: 'band' },
      marks: [
        Plot.cell(cells, {
          ...place,
          inset: 0.5,
          fill: ({ value }: Cell) => (value < 0 ? LORA : LILY),
          fillOpacity: opacity,
          stroke: 'var(--line)',
          title: ({ x, y, value }: Cell) => `${y}, expert ${x}: ${value.toFixed(3)}`,
        }),
        Plot.text(columns.length <= MOST_NUMBERS ? cells : [], {
          ...place,
          text: ({ value }: Cell) => twoDigits(value),
          fill: (cell: Cell) => (opacity(cell) > 0.55 ? 'var(--surface)' : 'var(--text)'),
          fontSize: 10,
        }),
      ],
    }),
  )
}

function entropies({ layers }: TargetAnalysis): Element {
  const labels = labelsOf(layers)
  const of = (key: 'entropy' | 'tokenEntropy') =>
    layers.flatMap(({ router }, l) => {
      const value = router[key]
      return value === null ? [] : [{ layer: labels[l], value }]
    })
  const dot = { x: 'value', y: 'layer', r: 3.5, strokeWidth: 1.5 } as const
  const title = ({ layer, value }: { layer: string; value: number }) => `${layer}: ${percent(value)}`
  return figure(
    'Entropy of the router',
    'As a share of ln E. Tokens that go different ways have less than their mean.',
    legend('dot', [
      { text: 'of the mean weights', color: LILY },
      { text: 'mean of the tokens', color: LILY, hollow: true },
    ]),
    plot('Entropy of the router by layer', {
      height: rowsHigh(labels.length),
      x: { domain: [0, 1], label: null, grid: true, tickFormat: percent },
      y: { domain: labels, label: null, type: 'point' },
      marks: [
        Plot.dot(of('entropy'), { ...dot, fill: LILY, stroke: LILY, title }),
        Plot.dot(of('tokenEntropy'), { ...dot, fill: 'var(--surface)', stroke: LILY, title }),
      ],
    }),
  )
}

function effectiveRanks({ layers, loraRank }: TargetAnalysis): Element {
  const labels = labelsOf(layers)
  const bars = layers.map(({ update }, l) => ({ layer: labels[l], rank: update.effectiveRank, ...update }))
  return figure(
    'Effective rank of the update',
    `Its singular values' exp of entropy. LoRA of as many parameters has rank ${loraRank.toFixed(1)}.`,
    legend('line', [
      { text: 'Lily', color: LILY },
      { text: 'the most that LoRA can have', color: LORA },
    ]),
    plot('Effective rank of the update by layer', {
      height: rowsHigh(labels.length),
      x: { label: null, grid: true, ticks: 5 },
      y: { domain: labels, label: null, type: 'band', padding: 0.25 },
      marks: [
        Plot.barX(bars, {
          x: 'rank',
          y: 'layer',
          fill: LILY,
          title: ({ layer, rank, norm, sharedWithLora }: (typeof bars)[number]) =>
            `${layer}: effective rank ${rank.toFixed(1)}, norm ${short(norm)}, ` +
            `${percent(sharedWithLora)} of its square within LoRA's rank`,
        }),
        Plot.ruleX([loraRank], { stroke: LORA, strokeWidth: 2 }),
        Plot.ruleX([0]),
      ],
    }),
  )
}

function spectra({ layers, loraRank }: TargetAnalysis): Element {
  const labels = labelsOf(layers)
  const points = layers.flatMap(({ update: { singularValues, spectralNorm } }, l) =>
    singularValues.map((value, i) => ({
      layer: labels[l],
      i: i + 1,
      share: spectralNorm > 0 ? value / spectralNorm : 0,
    })),
  )
  return figure(
    'Singular values of the update',
    'A line for each layer, relative to its largest.',
    legend('line', [
      { text: 'Lily', color: LILY },
      { text: 'rank of LoRA with as many parameters', color: LORA },
    ]),
    plot('Singular values of the update', {
      x: { label: null, ticks: 6 },
      y: { domain: [0, 1], label: null, grid: true },
      marks: [
        Plot.line(points, { x: 'i', y: 'share', z: 'layer', stroke: LILY, strokeOpacity: 0.5, strokeWidth: 1.2 }),
        Plot.ruleX([loraRank], { stroke: LORA, strokeWidth: 2 }),
        Plot.ruleY([0]),
      ],
    }),
  )
}

function norms({ experts }: TargetAnalysis): Element {
  const bars = experts.norms.map((norm, e) => ({ expert: String(e), norm }))
  return figure(
    'Norms of the experts',
    'Frobenius norm of each B.',
    legend('dot', [{ text: 'norm', color: LILY }]),
    plot('Norms of the experts', {
      height: rowsHigh(bars.length),
      x: { label: null, grid: true, ticks: 5 },
      y: { domain: bars.map(({ expert }) => expert), label: 'expert', type: 'band', padding: 0.25 },
      marks: [
        Plot.barX(bars, {
          x: 'norm',
          y: 'expert',
          fill: LILY,
          title: ({ expert, norm }: (typeof bars)[number]) => `expert ${expert}: ${short(norm)}`,
        }),
        Plot.ruleX([0]),
      ],
    }),
  )
}
