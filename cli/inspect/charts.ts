/** The charts of one target. */
import * as Plot from '@observablehq/plot'
import { max } from 'd3-array'
import type { SingularValueAnalysis, TargetAnalysis, UpdateAnalysis } from '../../lib/index.js'
import { cellChart, cosineScale, weightScale } from '../../report/cell-chart.js'
import { figure, fromZero, heightOfRows, integerTicks, labelled, plot, ranksFromZero } from '../../report/chart.js'
import type { Element } from '../../report/document.js'
import { percent, threeDigits } from '../../report/format.js'
import { legend } from '../../report/legend.js'
import { isRouted, layerLabels } from './inspection.js'

const LILY = 'var(--lily)'
const LORA = 'var(--lora)'

/** Whether the layers of a target have learned mixtures in the place of routers. */
const isLearned = ({ layers }: TargetAnalysis): boolean => layers.some(({ router }) => router.source === 'learned')

/** The charts of the router require samples. */
export function targetCharts(target: TargetAnalysis): Element[] {
  const routed = isRouted(target) ? [routerMap(target), entropies(target)] : []
  const { layers, loraRank } = target
  const lora = { rank: loraRank, text: 'LoRA with as many parameters' }
  return [
    ...routed,
    effectiveRanks(layers, LILY, lora),
    spectra(layers, LILY, lora),
    cosines(target),
    expertNorms(target),
  ]
}

/** The charts of one target of LoRA. */
export function loraCharts(layers: readonly UpdatedLayer[]): Element[] {
  return [effectiveRanks(layers, LORA), spectra(layers, LORA)]
}

/** A layer, as far as the charts of updates show it. */
interface UpdatedLayer {
  readonly name: string
  readonly update: SingularValueAnalysis & Partial<Pick<UpdateAnalysis, 'sharedWithLora'>>
}

/** A LoRA with which updates are compared. */
interface ComparedLora {
  readonly rank: number
  readonly text: string
}

function routerMap(target: TargetAnalysis): Element {
  const { layers } = target
  const labels = layerLabels(layers)
  const cells = layers.flatMap(({ router }, l) =>
    router.weights.map((weight, e) => ({ layer: labels[l], expert: e, weight })),
  )
  return cellChart({
    title: isLearned(target) ? 'Mixtures' : 'Router',
    text: isLearned(target) ? 'Weight of each expert by layer.' : 'Mean weight of each expert by layer.',
    cells: cells.map(({ layer, expert, weight }) => ({ x: expert, y: layer, value: weight })),
    rows: labels,
    scale: weightScale(layers[0].router.weights.length),
  })
}

function cosines({ experts }: TargetAnalysis): Element {
  const cells = experts.cosines.flatMap((row, e) => row.map((value, f) => ({ x: f, y: String(e), value })))
  return cellChart({
    title: 'Experts',
    text: 'Cosine similarity of each pair of experts, as vectors.',
    cells,
    rows: experts.cosines.map((_, e) => String(e)),
    scale: cosineScale,
  })
}

function entropies(target: TargetAnalysis): Element {
  const { layers } = target
  const learned = isLearned(target)
  const name = learned ? 'Entropy of the mixtures' : 'Entropy of the router'
  const ofTokens =
    ' If tokens prefer different experts, their own entropy is lower than the entropy of the mean weights.'
  const labels = layerLabels(layers)
  const { marginLeft, y } = labelled(labels)
  const of = (key: 'entropy' | 'tokenEntropy') =>
    layers.flatMap(({ router }, l) => {
      const value = router[key]
      return value === null ? [] : [{ layer: labels[l], value }]
    })
  const dot = { x: 'value', y: 'layer', r: 3.5, strokeWidth: 1.5 } as const
  const title = ({ layer, value }: { layer: string; value: number }) => `${layer}: ${percent(value)}`
  return figure(
    name,
    `Relative to ln E.${learned ? '' : ofTokens}`,
    legend('dot', [
      { text: `entropy of the ${learned ? '' : 'mean '}weights`, color: LILY },
      ...(learned ? [] : [{ text: 'mean entropy of the tokens', color: LILY, hollow: true }]),
    ]),
    plot(`${name} by layer`, {
      height: heightOfRows(labels.length),
      marginLeft,
      x: { domain: [0, 1], label: null, grid: true, tickFormat: (share: number) => percent(share) },
      y: { ...y, type: 'point' },
      marks: [
        Plot.dot(of('entropy'), { ...dot, fill: LILY, stroke: LILY, title }),
        Plot.dot(of('tokenEntropy'), { ...dot, fill: 'var(--surface)', stroke: LILY, title }),
      ],
    }),
  )
}

function effectiveRanks(layers: readonly UpdatedLayer[], color: string, lora?: ComparedLora): Element {
  const labels = layerLabels(layers)
  const { marginLeft, y } = labelled(labels)
  const bars = layers.map(({ update }, l) => ({ layer: labels[l], rank: update.effectiveRank, ...update }))
  return figure(
    'Effective rank of the update',
    'exp of the entropy of the singular values.' +
      (lora === undefined ? '' : ` ${lora.text} has rank ${lora.rank.toFixed(1)}.`),
    legend('line', [
      { text: color === LORA ? 'LoRA' : 'Lily', color },
      ...(lora === undefined ? [] : [{ text: 'maximum for LoRA', color: LORA }]),
    ]),
    plot('Effective rank of the update by layer', {
      height: heightOfRows(labels.length),
      marginLeft,
      x: ranksFromZero([...bars.map(({ rank }) => rank), lora?.rank ?? 0]),
      y: { ...y, type: 'band', padding: 0.25 },
      marks: [
        Plot.barX(bars, {
          x: 'rank',
          y: 'layer',
          fill: color,
          title: ({ layer, rank, norm, sharedWithLora }: (typeof bars)[number]) =>
            `${layer}: effective rank ${rank.toFixed(1)}, norm ${threeDigits(norm)}` +
            (sharedWithLora === undefined ? '' : `, ${percent(sharedWithLora)} of its square within the rank of LoRA`),
        }),
        ...(lora === undefined ? [] : [Plot.ruleX([lora.rank], { stroke: LORA, strokeWidth: 2 })]),
        Plot.ruleX([0]),
      ],
    }),
  )
}

function spectra(layers: readonly UpdatedLayer[], color: string, lora?: ComparedLora): Element {
  const labels = layerLabels(layers)
  const points = layers.flatMap(({ update: { singularValues, spectralNorm } }, l) =>
    singularValues.map((value, i) => ({
      layer: labels[l],
      i: i + 1,
      share: spectralNorm > 0 ? value / spectralNorm : 0,
    })),
  )
  return figure(
    'Singular values of the update',
    'One line per layer, relative to the largest value.',
    legend('line', [
      { text: color === LORA ? 'LoRA' : 'Lily', color },
      ...(lora === undefined ? [] : [{ text: `rank of ${lora.text}`, color: LORA }]),
    ]),
    plot('Singular values of the update', {
      x: { label: null, ...integerTicks(1, max(points, ({ i }) => i) ?? 1, 6) },
      y: { domain: [0, 1], label: null, grid: true },
      marks: [
        Plot.line(points, { x: 'i', y: 'share', z: 'layer', stroke: color, strokeOpacity: 0.5, strokeWidth: 1.2 }),
        ...(lora === undefined ? [] : [Plot.ruleX([lora.rank], { stroke: LORA, strokeWidth: 2 })]),
        Plot.ruleY([0]),
      ],
    }),
  )
}

function expertNorms({ experts: { norms } }: TargetAnalysis): Element {
  const bars = norms.map((norm, e) => ({ expert: String(e), norm }))
  return figure(
    'Norms of the experts',
    'Frobenius norm of each B.',
    legend('dot', [{ text: 'norm', color: LILY }]),
    plot('Norms of the experts', {
      height: heightOfRows(bars.length),
      x: fromZero(norms),
      y: { domain: bars.map(({ expert }) => expert), label: 'expert', type: 'band', padding: 0.25 },
      marks: [
        Plot.barX(bars, {
          x: 'norm',
          y: 'expert',
          fill: LILY,
          title: ({ expert, norm }: (typeof bars)[number]) => `expert ${expert}: ${threeDigits(norm)}`,
        }),
        Plot.ruleX([0]),
      ],
    }),
  )
}
