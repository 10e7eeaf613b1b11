/** The result of inspecting a LoRA adapter: `--json` writes it, and the table and the page show it. */
import type { LoraAnalysis, LoraLayerAnalysis } from '../../lib/index.js'
import { targetTitle } from './inspection.js'

export interface LoraInspection {
  readonly version: string
  readonly folder: string
  readonly analysis: LoraAnalysis
}

/** The layers of one target and one size. */
export interface LoraTarget {
  readonly title: string
  readonly layers: readonly LoraLayerAnalysis[]
}

/** The configuration of the adapter. */
export const loraConfigText = ({ r, loraAlpha, useRslora }: LoraAnalysis): string =>
  `LoRA, r ${r}, alpha ${loraAlpha}${useRslora ? ', rank-stabilised' : ''}`

export const loraParameterCount = ({ layers }: LoraAnalysis): number =>
  layers.reduce((sum, { parameters }) => sum + parameters, 0)

/** In the order of their first layers. */
export function loraTargets({ layers }: LoraAnalysis): LoraTarget[] {
  const groups = new Map<string, LoraLayerAnalysis[]>()
  for (const layer of layers) {
    const key = JSON.stringify([layer.target, layer.inFeatures, layer.outFeatures])
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [layer])
    else group.push(layer)
  }
  return Array.from(groups.values(), (group) => {
    const [{ target, inFeatures, outFeatures }] = group
    return { title: targetTitle({ target, inFeatures, outFeatures, layers: group }), layers: group }
  })
}
