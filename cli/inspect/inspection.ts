/** The result of an inspection: `--json` writes it, and the table and the page show it. */
import { countOf } from '../../lib/base/errors.js'
import type { Analysis, LayerAnalysis, TargetAnalysis } from '../../lib/index.js'

export interface Inspection {
  readonly version: string
  readonly folder: string
  /** The file of samples; null if none was given. */
  readonly samples: string | null
  readonly analysis: Analysis
}

/** The configuration of the adapter. */
export const configText = ({ r, strideA, numB, scaling, routing, pool }: Analysis): string =>
  `r ${r}, stride_A ${strideA}, num_B ${numB}, scaling ${scaling}, routing ${routing}${pool === 'logits' ? ', pool logits' : ''}`

/** Parameters; shared ones count once. */
export const parameterCount = ({ targets }: Analysis): number =>
  targets.reduce((sum, { parameters }) => sum + parameters, 0)

/** Trainable parameters: those without the routers of frozen layers. */
export const trainableCount = ({ targets }: Analysis): number =>
  targets.reduce((sum, { trainable }) => sum + trainable, 0)

/** The layers of one target and one size. */
interface SizedLayers extends Pick<TargetAnalysis, 'target' | 'inFeatures' | 'outFeatures'> {
  readonly layers: readonly unknown[]
}

export const targetTitle = ({ target, inFeatures, outFeatures, layers }: SizedLayers): string =>
  `${target}: ${countOf(layers.length, 'layer')} of ${inFeatures} to ${outFeatures}`

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

/** Entropy of the mean weights; null if the routers were not analysed. */
export const routerEntropy = ({ router }: LayerAnalysis): number | null =>
  router.source === 'uniform' ? null : router.entropy

/** Whether the weights of a target were analysed. Otherwise its weights are taken as equal. */
export const isRouted = ({ layers }: TargetAnalysis): boolean =>
  layers.some(({ router }) => router.source !== 'uniform')
