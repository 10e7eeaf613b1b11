/** What an inspection has found, as text. */
import type { TargetAnalysis } from '../../lib/index.js'
import { plainTable, textOf } from '../report/plain-table.js'
import { type Inspection, isRouted, labelsOf, percent, short, titleOf, twoDigits } from './inspection.js'

/** More experts than these have no column each. */
const SHOWN_EXPERTS = 8

export function inspectionText({ folder, samples, analysis }: Inspection): string {
  const { r, strideA, numB, scaling, targets } = analysis
  const layers = targets.reduce((sum, target) => sum + target.layers.length, 0)
  const parameters = targets.reduce((sum, target) => sum + target.parameters, 0)
  return [
    `${folder}: r ${r}, stride_A ${strideA}, num_B ${numB}, scaling ${scaling}; ${layers} layers, ${parameters} parameters`,
    ...targets.flatMap((target) => [
      `${titleOf(target)}; LoRA of as many parameters has rank ${target.loraRank.toFixed(1)}`,
      layerTable(target, numB),
      expertTable(target, numB),
    ]),
    legend(samples, targets, r),
  ].join('\n\n')
}

function layerTable(target: TargetAnalysis, experts: number): string {
  const shown = isRouted(target) && experts <= SHOWN_EXPERTS ? experts : 0
  const columns = [...numbers(shown).map((e) => `w${e}`), 'entropy', 'of tokens', '|dW|', 'effective rank', 'in LoRA']
  const table = plainTable(['layer', ...columns], ['left', ...columns.map(() => 'right' as const)])
  const labels = labelsOf(target.layers)
  target.layers.forEach(({ router, update }, l) => {
    const routed = router.source !== 'uniform'
    table.push([
      labels[l],
      ...numbers(shown).map((e) => (routed ? router.weights[e].toFixed(2) : '-')),
      routed ? percent(router.entropy) : '-',
      percent(router.tokenEntropy),
      short(update.norm),
      update.effectiveRank.toFixed(1),
      percent(update.sharedWithLora),
    ])
  })
  return textOf(table)
}

function expertTable({ experts: { norms, cosines } }: TargetAnalysis, experts: number): string {
  const shown = numbers(Math.min(experts, SHOWN_EXPERTS))
  const table = plainTable(
    ['expert', '|B|', ...shown.map((e) => `cos ${e}`)],
    ['left', 'right', ...shown.map(() => 'right' as const)],
  )
  norms.forEach((norm, e) => table.push([String(e), short(norm), ...shown.map((f) => twoDigits(cosines[e][f]))]))
  return textOf(table)
}

function legend(samples: string | null, targets: readonly TargetAnalysis[], r: number): string {
  const routed = targets.some(isRouted)
  return [
    ...(routed ? ['w: weights of the experts, means over the sample'] : []),
    ...(samples === null ? ['no samples: every expert counts the same, and nothing is said of the routers'] : []),
    'entropy: of the weights, 100% where all weigh the same; of tokens: the mean of their own',
    `|dW|: norm of the layer's update; effective rank: exp of the entropy of its singular values, at most r = ${r}`,
    'in LoRA: the share of |dW|² that an update of the rank of LoRA with as many parameters can have',
  ].join('\n')
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i)
}
