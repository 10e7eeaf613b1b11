/** An inspection as one HTML file. */
import { median } from 'd3-array'
import type { LayerAnalysis, TargetAnalysis } from '../../lib/index.js'
import { type Element, h, htmlPage } from '../../report/document.js'
import {
  charts,
  columnHeader,
  definitions,
  rowHeader,
  scrollable,
  tableOf,
  type Tile,
  tiles,
} from '../../report/elements.js'
import { percent, threeDigits } from '../../report/format.js'
import { style } from '../../report/style.js'
import { targetCharts } from './charts.js'
import {
  configText,
  type Inspection,
  isRouted,
  layerLabels,
  parameterCount,
  routerEntropy,
  targetTitle,
  trainableCount,
} from './inspection.js'

/**
 * @param inspection with printable strings
 * @param data the inspection as it is, for the machine-readable part
 */
export function inspectionPage(inspection: Inspection, data: Inspection): string {
  const { targets } = inspection.analysis
  const body = [
    header(inspection),
    tiles(summary(inspection)),
    ...targets.flatMap((target) => [
      h('h2', {}, targetTitle(target)),
      charts(targetCharts(target)),
      h('h3', {}, 'Layers'),
      layerTable(target),
    ]),
    h('h2', {}, 'Definitions'),
    terms(inspection),
  ]
  return htmlPage(`Lily adapter ${inspection.folder}`, style, body, data)
}

function header({ folder, version, samples, analysis }: Inspection): Element {
  return h(
    'header',
    {},
    h('h1', {}, 'Lily adapter'),
    h('p', {}, h('code', {}, folder), `: ${configText(analysis)}.`),
    h('p', { class: 'muted' }, `lily-kernels ${version}${samples === null ? '' : `, samples from ${samples}`}`),
    ...(analysis.targets.some(isRouted)
      ? []
      : [h('p', { class: 'alert' }, 'No samples: the weights are taken as equal, and the routers are not analysed.')]),
  )
}

function summary({ analysis }: Inspection): Tile[] {
  const { targets } = analysis
  const layers = targets.flatMap((target) => target.layers)
  const medianOf = (value: (layer: LayerAnalysis) => number | null) =>
    median(layers.map((layer) => value(layer) ?? NaN))
  const [count, trainable] = [parameterCount(analysis), trainableCount(analysis)]
  const trained = trainable === count ? '' : `; ${trainable.toLocaleString('en')} of them are trainable`
  const entropy = medianOf(({ router }) => router.tokenEntropy)
  return [
    { value: count.toLocaleString('en'), text: `parameters; shared ones count once${trained}` },
    {
      value: (medianOf(({ update }) => update.effectiveRank) ?? 0).toFixed(1),
      text: 'effective rank of an update, median over the layers',
    },
    {
      value: (median(targets.map(({ loraRank }) => loraRank)) ?? 0).toFixed(1),
      text: 'rank of LoRA with as many parameters',
    },
    {
      value: percent(medianOf(({ update }) => update.sharedWithLora) ?? null),
      text: 'of the squared norm of an update that LoRA of that rank can represent, median',
    },
    ...(entropy === undefined
      ? []
      : [{ value: percent(entropy), text: 'entropy of the weights of a token, relative to ln E, median' }]),
  ]
}

function layerTable(target: TargetAnalysis): Element {
  const titles = ['layer', 'entropy', 'of tokens', '|dW|', 'largest singular value', 'effective rank', 'in LoRA']
  const labels = layerLabels(target.layers)
  const body = target.layers.map((layer, l) => {
    const { name, router, update } = layer
    const cells = [
      percent(routerEntropy(layer)),
      percent(router.tokenEntropy),
      threeDigits(update.norm),
      threeDigits(update.spectralNorm),
      update.effectiveRank.toFixed(1),
      percent(update.sharedWithLora),
    ]
    return h('tr', {}, rowHeader(labels[l], { title: name }), ...cells.map((cell) => h('td', {}, cell)))
  })
  const table = tableOf(
    titles.map((title) => columnHeader(title)),
    body,
  )
  return scrollable(targetTitle(target), table)
}

const terms = ({ analysis: { r } }: Inspection): Element =>
  definitions([
    ['entropy', 'Entropy of the mean weights of the experts, relative to ln E: 100% if all weights are equal.'],
    [
      'of tokens',
      'Mean of the entropies of the tokens. It is lower than the entropy of the mean weights if tokens prefer different ' +
        'experts.',
    ],
    [
      '|dW|',
      'Frobenius norm of the update of the layer, scaling * Cᵀ A, where C combines the experts with the weights of the layer.',
    ],
    [
      'effective rank',
      'exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007): the number of directions ' +
        `of the update, at most r = ${r}. The effective rank of a LoRA update is at most its rank.`,
    ],
    [
      'in LoRA',
      'Share of the squared norm of the update that the best approximation by LoRA with as many parameters has.',
    ],
  ])
