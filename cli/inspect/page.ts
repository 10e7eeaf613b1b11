/** What an inspection has found, as one HTML file. */
import { median } from 'd3-array'
import type { LayerAnalysis, TargetAnalysis } from '../../lib/index.js'
import { type Element, h, pageWith } from '../report/document.js'
import { style } from '../report/style.js'
import { targetCharts } from './charts.js'
import { type Inspection, isRouted, labelsOf, percent, short, titleOf } from './inspection.js'

export function inspectionPage(inspection: Inspection): string {
  const { targets } = inspection.analysis
  const body = [
    head(inspection),
    h('dl', { class: 'tiles' }, ...tiles(inspection)),
    ...targets.flatMap((target) => [
      h('h2', {}, titleOf(target)),
      h('div', { class: 'charts' }, ...targetCharts(target)),
      h('h3', {}, 'Layers'),
      layerTable(target),
    ]),
    h('h2', {}, 'What is what'),
    how(inspection),
  ]
  return pageWith(`Lily adapter ${inspection.folder}`, style, body, inspection)
}

function head({ folder, version, samples, analysis }: Inspection): Element {
  const { r, strideA, numB, scaling } = analysis
  const routed = analysis.targets.some(isRouted)
  return h(
    'header',
    {},
    h('h1', {}, 'A Lily adapter'),
    h('p', {}, h('code', {}, folder), `: r ${r}, stride_A ${strideA}, num_B ${numB}, scaling ${scaling}.`),
    h('p', { class: 'muted' }, `lily-kernels ${version}${samples === null ? '' : `, samples of ${samples}`}`),
    ...(routed ? [] : [h('p', { class: 'alert' }, 'No samples: every expert counts the same, routers are not shown.')]),
  )
}

function tiles({ analysis: { targets } }: Inspection): Element[] {
  const layers = targets.flatMap((target) => target.layers)
  const of = (value: (layer: LayerAnalysis) => number | null) => median(layers.map((layer) => value(layer) ?? NaN))
  const entropy = of(({ router }) => router.tokenEntropy)
  const parameters = targets.reduce((sum, target) => sum + target.parameters, 0)
  return [
    tile(parameters.toLocaleString('en'), 'parameters, shared ones counted once'),
    tile(
      (of(({ update }) => update.effectiveRank) ?? 0).toFixed(1),
      'effective rank of an update, median of the layers',
    ),
    tile((median(targets.map(({ loraRank }) => loraRank)) ?? 0).toFixed(1), 'rank of LoRA with as many parameters'),
    tile(
      percent(of(({ update }) => update.sharedWithLora) ?? null),
      "of an update's squared norm that LoRA of that rank could have, median",
    ),
    ...(entropy === undefined ? [] : [tile(percent(entropy), "of the largest entropy in a token's weights, median")]),
  ]
}

const tile = (value: string, text: string): Element =>
  h('div', { class: 'tile' }, h('dt', {}, text), h('dd', {}, value))

function layerTable(target: TargetAnalysis): Element {
  const titles = ['layer', 'entropy', 'of tokens', '|dW|', 'largest singular value', 'effective rank', 'in LoRA']
  const labels = labelsOf(target.layers)
  const body = target.layers.map(({ name, router, update }, l) => {
    const routed = router.source !== 'uniform'
    const cells = [
      routed ? percent(router.entropy) : '-',
      percent(router.tokenEntropy),
      short(update.norm),
      short(update.spectralNorm),
      update.effectiveRank.toFixed(1),
      percent(update.sharedWithLora),
    ]
    return h('tr', {}, h('th', { scope: 'row', title: name }, labels[l]), ...cells.map((cell) => h('td', {}, cell)))
  })
  const header = h('tr', {}, ...titles.map((title) => h('th', { scope: 'col' }, title)))
  const table = h('table', {}, h('thead', {}, header), h('tbody', {}, ...body))
  return h('div', { class: 'box', tabindex: '0', role: 'region', 'aria-label': titleOf(target) }, table)
}

function how({ analysis: { r } }: Inspection): Element {
  const items: [string, string][] = [
    ['entropy', 'Of the mean weights of the experts, as a share of ln E: 100% where all weigh the same.'],
    ['of tokens', "The mean of the tokens' own: less than the entropy of the means where tokens go different ways."],
    [
      '|dW|',
      "Frobenius norm of the layer's update, scaling * Cᵀ A, where C mixes the experts with the layer's weights.",
    ],
    [
      'effective rank',
      `exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007): how many directions ` +
        `the update has, at most r = ${r}. That of LoRA is at most its rank.`,
    ],
    ['in LoRA', "The share of the update's squared norm that the best matrix of LoRA's rank has, at equal parameters."],
  ]
  return h('dl', { class: 'how' }, ...items.flatMap(([name, text]) => [h('dt', {}, name), h('dd', {}, text)]))
}
