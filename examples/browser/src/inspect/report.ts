/** What the page shows of an inspected adapter. */
import { group, median } from 'd3-array'
import type { LoraLayerAnalysis, TargetAnalysis } from 'lily-kernels'
import { LILY, LORA } from '../charts.js'
import { h, notice, table, tiles } from '../dom.js'
import { count, countOf, percent, threeDigits } from '../format.js'
import { cosineMap, effectiveRanks, layerLabels, mixtureMap } from './charts.js'
import type { Inspection, LilyInspection, LoraInspection, ParameterShape } from './inspection.js'
import { RANDOM_TOKENS } from './random-inputs.js'

export function inspectionReport(inspection: Inspection): HTMLElement[] {
  return inspection.kind === 'Lily' ? lilyReport(inspection) : loraReport(inspection)
}

function lilyReport({ analysis, total, baseParameters, loraRank, parameters }: LilyInspection): HTMLElement[] {
  const { r, strideA, numB, scaling, routing, targets } = analysis
  const layers = targets.flatMap((target) => target.layers)
  const hasMixtures = routing !== 'uniform'
  const isLearned = routing === 'learned'
  return [
    h('h3', {}, `A Lily adapter: ${countOf(layers.length, 'layer')}`),
    h('p', { class: 'muted' }, `r ${r}, stride_A ${strideA}, num_B ${numB}, scaling ${scaling}, routing ${routing}`),
    tiles([
      { value: count(total), text: 'parameters; shared ones count once' },
      { value: percentOf(total, baseParameters), text: 'of the weights that it adapts' },
      { value: loraRank.toFixed(1), text: 'rank of LoRA with as many parameters' },
      {
        value: (median(layers, ({ update }) => update.effectiveRank) ?? 0).toFixed(1),
        text: 'effective rank of an update, median of the layers',
      },
    ]),
    ...(hasMixtures && !isLearned ? [routersNotice()] : []),
    ...targets.flatMap((target) => [
      h(
        'h3',
        {},
        `${target.target}: ${countOf(target.layers.length, 'layer')} of ${target.inFeatures} to ${target.outFeatures}`,
      ),
      h(
        'div',
        { class: 'charts' },
        ...(hasMixtures ? [mixtureMap(target, isLearned)] : []),
        cosineMap(target),
        effectiveRanks(target.layers, LILY, target.loraRank),
      ),
      lilyTable(target),
    ]),
    ...shapes(parameters),
  ]
}

function routersNotice(): HTMLElement {
  return notice(
    'note',
    `Routers are shown on ${RANDOM_TOKENS} random inputs.`,
    h(
      'p',
      {},
      'A folder has no activations of its base model. The command line reads some: ',
      h('code', {}, 'npx lily-kernels inspect folder --samples file'),
      '. Updates are those for the mean weights of the routers.',
    ),
  )
}

function lilyTable({ target, layers }: TargetAnalysis): HTMLElement {
  const labels = layerLabels(layers)
  const rows = layers.map(({ router, update }, l) => [
    labels[l],
    percent(router.entropy),
    percent(router.tokenEntropy),
    threeDigits(update.norm),
    update.effectiveRank.toFixed(1),
    percent(update.sharedWithLora),
  ])
  const head = ['layer', 'entropy of the weights', 'token entropy', 'norm of update', 'effective rank', 'within LoRA']
  return table(`Layers of ${target}`, head, rows)
}

function loraReport({ analysis, total, baseParameters, parameters }: LoraInspection): HTMLElement[] {
  const { r, loraAlpha, useRslora, layers } = analysis
  const medianRank = (median(layers, ({ update }) => update.effectiveRank) ?? 0).toFixed(1)
  return [
    h('h3', {}, `A LoRA adapter: ${countOf(layers.length, 'layer')}`),
    h(
      'p',
      { class: 'muted' },
      `r ${r}, alpha ${loraAlpha}${useRslora ? ', rank-stabilised' : ''}; LoRA has no routers`,
    ),
    tiles([
      { value: count(total), text: 'parameters' },
      { value: percentOf(total, baseParameters), text: 'of the weights that it adapts' },
      { value: medianRank, text: 'effective rank of an update, median of the layers' },
    ]),
    ...Array.from(
      group(layers, ({ target }) => target),
      ([target, members]) => [
        h('h3', {}, `${target}: ${countOf(members.length, 'layer')}`),
        h('div', { class: 'charts' }, effectiveRanks(members, LORA)),
        loraTable(target, members),
      ],
    ).flat(),
    ...shapes(parameters),
  ]
}

function loraTable(target: string, layers: readonly LoraLayerAnalysis[]): HTMLElement {
  const labels = layerLabels(layers)
  const rows = layers.map(({ r, scaling, inFeatures, outFeatures, update }, l) => [
    labels[l],
    `${inFeatures} to ${outFeatures}`,
    String(r),
    threeDigits(scaling),
    threeDigits(update.norm),
    update.effectiveRank.toFixed(1),
  ])
  return table(`Layers of ${target}`, ['layer', 'features', 'r', 'scaling', 'norm of update', 'effective rank'], rows)
}

const percentOf = (part: number, whole: number): string => `${((part / whole) * 100).toPrecision(2)} %`

function shapes(parameters: readonly ParameterShape[]): HTMLElement[] {
  const rows = parameters.map(({ name, shape, elements }) => [name, shape.join(' × '), count(elements)])
  return [
    h(
      'details',
      {},
      h('summary', {}, `Shapes of ${countOf(parameters.length, 'parameter')}`),
      table('Shapes of the parameters', ['parameter', 'shape', 'elements'], rows),
    ),
  ]
}
