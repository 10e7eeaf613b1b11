/**
 * Sharing of parameters between layers (arXiv 2407.09946, as implemented in PEFT). Layers with the same target suffix
 * and the same sizes form a target. All layers of a target share one B. In the order given, each block of `strideA`
 * consecutive layers shares one A; the last block may be shorter. Every layer has its own router, or, with routing
 * 'learned', in its place the logits of its own mixture.
 */
import type { LayerShape } from './layer-shape.js'
import type { AdaptedLayer, Layout, ParameterShape } from './layout.js'
import type { LilyConfig } from './lily-config.js'
import { targetedLayers } from './targeted-layers.js'

/** An adapted layer and the names of its parameters. Layers with the same target and sizes share B. */
export interface SharedLayer extends AdaptedLayer {
  readonly router: string
}

/** Suffix of PEFT's name of each kind of parameter, after the layer's name and a dot. */
export const LILY_SUFFIX = { a: 'lily_A.weight', router: 'lily_router.weight', b: 'lily_B.weight' } as const

/**
 * Assigns parameters to the layers that the configuration targets. Other layers are omitted from the result.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for an invalid or repeated layer, or if no layer is targeted
 */
export function shareLayers(shapes: readonly LayerShape[], config: LilyConfig): Layout<SharedLayer> {
  const layers = new Map<string, SharedLayer>()
  const parameters = new Map<string, ParameterShape & { layers: string[] }>()
  const groups = new Map<string, SharedLayer[]>()
  const { r, numB, strideA, routing } = config
  const routerColumns = routing === 'learned' ? 1 : r

  const use = (kind: ParameterShape['kind'], first: string, shape: [number, number], layer: string) => {
    const name = `${first}.${LILY_SUFFIX[kind]}`
    const parameter = parameters.get(name) ?? { name, kind, shape, layers: [] }
    parameter.layers.push(layer)
    parameters.set(name, parameter)
    return name
  }
  for (const targeted of targetedLayers(shapes, config)) {
    const { name, inFeatures, outFeatures, target } = targeted
    const key = JSON.stringify([target, inFeatures, outFeatures])
    const group = groups.get(key) ?? []
    groups.set(key, group)
    const firstOfBlock = group.length % strideA === 0 ? name : group[group.length - (group.length % strideA)].name
    const layer: SharedLayer = {
      ...targeted,
      a: use('a', firstOfBlock, [r, inFeatures], name),
      router: use('router', name, [numB, routerColumns], name),
      b: use('b', group.length === 0 ? name : group[0].name, [numB * r, outFeatures], name),
    }
    group.push(layer)
    layers.set(name, layer)
  }
  return { layers, parameters }
}
