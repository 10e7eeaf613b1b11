/** The layers of a LoRA adapter and their parameters. Each layer has its own A and B, of its own rank. */
import type { LayerShape } from './layer-shape.js'
import type { AdaptedLayer, Layout, ParameterShape } from './layout.js'
import type { LoraConfig } from './lora-config.js'
import { valueByName } from './pattern-values.js'
import { targetedLayers } from './targeted-layers.js'

/** An adapted layer. */
export interface LoraLayerShape extends AdaptedLayer {
  /** Rank, from the configuration or its rankPattern. */
  readonly r: number
  /** alpha / r, or alpha / sqrt(r). */
  readonly scaling: number
}

/** Suffix of PEFT's name of each kind of parameter, after the layer's name and a dot. */
export const LORA_SUFFIX = { a: 'lora_A.weight', b: 'lora_B.weight' } as const

/** A function from a layer's name to its rank. */
export function ranksOf({ r, rankPattern }: LoraConfig): (name: string) => number {
  const ofPattern = valueByName(rankPattern, 'rankPattern')
  return (name) => ofPattern(name) ?? r
}

/**
 * Assigns parameters to the layers that the configuration targets. Other layers are omitted from the result.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid or repeated layer, or if no layer is targeted
 */
export function layOutLora(shapes: readonly LayerShape[], config: LoraConfig): Layout<LoraLayerShape> {
  const layers = new Map<string, LoraLayerShape>()
  const parameters = new Map<string, ParameterShape>()
  const rankOf = ranksOf(config)
  const alphaOf = valueByName(config.alphaPattern, 'alphaPattern')

  const add = (kind: 'a' | 'b', shape: readonly [number, number], layer: string) => {
    const name = `${layer}.${LORA_SUFFIX[kind]}`
    parameters.set(name, { name, kind, shape, layers: [layer] })
    return name
  }
  for (const targeted of targetedLayers(shapes, config)) {
    const { name, inFeatures, outFeatures } = targeted
    const r = rankOf(name)
    const alpha = alphaOf(name) ?? config.loraAlpha
    layers.set(name, {
      ...targeted,
      r,
      scaling: alpha / (config.useRslora ? Math.sqrt(r) : r),
      a: add('a', [r, inFeatures], name),
      b: add('b', [outFeatures, r], name),
    })
  }
  return { layers, parameters }
}
