/** An inspection as text. */
import { countOf } from '../../lib/base/errors.js'
import type { Analysis, TargetAnalysis } from '../../lib/index.js'
import { NONE, percent, threeDigits, twoDecimals } from '../../report/format.js'
import { renderTable, textTable } from '../../report/text-table.js'
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

/** Up to this number, each expert has a column. */
const MAX_COLUMNS = 8

/** All strings of the inspection must be printable. */
export function inspectionText({ folder, samples, analysis }: Inspection): string {
  const { numB, targets } = analysis
  const layers = targets.reduce((sum, target) => sum + target.layers.length, 0)
  return [
    `${folder}: ${configText(analysis)}; ${countOf(layers, 'layer')}, ${parameterText(analysis)}`,
    ...targets.flatMap((target) => [
      `${targetTitle(target)}; LoRA with as many parameters has rank ${target.loraRank.toFixed(1)}`,
      layerTable(target, numB),
      expertTable(target, numB),
    ]),
    legend(samples, analysis),
  ].join('\n\n')
}

function parameterText(analysis: Analysis): string {
  const [count, trainable] = [parameterCount(analysis), trainableCount(analysis)]
  return trainable === count ? `${count} parameters` : `${count} parameters, of which ${trainable} are trainable`
}

function layerTable(target: TargetAnalysis, experts: number): string {
  const shown = isRouted(target) && experts <= MAX_COLUMNS ? experts : 0
  const columns = [...indices(shown).map((e) => `w${e}`), 'entropy', 'of tokens', '|dW|', 'effective rank', 'in LoRA']
  const table = textTable(['layer', ...columns], ['left', ...columns.map(() => 'right' as const)])
  const labels = layerLabels(target.layers)
  target.layers.forEach((layer, l) => {
    const { router, update } = layer
    table.push([
      labels[l],
      ...indices(shown).map((e) => (router.source === 'uniform' ? NONE : router.weights[e].toFixed(2))),
      percent(routerEntropy(layer)),
      percent(router.tokenEntropy),
      threeDigits(update.norm),
      update.effectiveRank.toFixed(1),
      percent(update.sharedWithLora),
    ])
  })
  return renderTable(table)
}

function expertTable({ experts: { norms, cosines } }: TargetAnalysis, experts: number): string {
  const shown = indices(Math.min(experts, MAX_COLUMNS))
  const table = textTable(
    ['expert', '|B|', ...shown.map((e) => `cos ${e}`)],
    ['left', 'right', ...shown.map(() => 'right' as const)],
  )
  norms.forEach((norm, e) =>
    table.push([String(e), threeDigits(norm), ...shown.map((f) => twoDecimals(cosines[e][f]))]),
  )
  return renderTable(table)
}

function legend(samples: string | null, analysis: Analysis): string {
  return [
    ...weightsLegend(samples, analysis),
    'entropy: of the mean weights, 100% if all weights are equal; of tokens: mean of the entropies of the tokens',
    `|dW|: Frobenius norm of the update of the layer; |B|: Frobenius norm of the expert`,
    `effective rank: exp of the entropy of the singular values of the update, at most r = ${analysis.r}`,
    'in LoRA: share of |dW|² that an update of LoRA with as many parameters can represent',
  ].join('\n')
}

function weightsLegend(samples: string | null, { routing, targets }: Analysis): string[] {
  const sources = new Set(targets.flatMap(({ layers }) => layers.map(({ router }) => router.source)))
  const weights = [
    ...(sources.has('samples') ? ['mean over the samples'] : []),
    ...(sources.has('frozen') ? ['those that a layer is frozen with'] : []),
    ...(sources.has('learned') ? ['the mixture that a layer has learned'] : []),
  ]
  const equal = `the weights${sources.has('frozen') ? ' of other layers' : ''} are taken as equal, and `
  return [
    ...(weights.length === 0 ? [] : [`w: weights of the experts, ${weights.join(', or ')}`]),
    ...(samples === null && routing !== 'learned'
      ? [`no samples: ${sources.has('uniform') ? equal : ''}the routers are not analysed`]
      : []),
  ]
}

function indices(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i)
}
