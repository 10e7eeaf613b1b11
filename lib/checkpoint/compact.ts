/**
 * The list of layers in the compact format, which stores each parameter once. It is an entry of the file's metadata.
 */
import type { LayerShape } from '../model/layer-shape.js'
import { checkpointError, DAMAGED } from './errors.js'
import { FROZEN } from './frozen.js'
import { parseJson } from './json.js'
import type { SafetensorsFile } from './safetensors-file.js'

/**
 * Metadata key of the adapted layers, in the order in which they share A, as JSON: [[name, inFeatures, outFeatures],
 * ...].
 */
const LAYERS = 'lily_layers'

/** Metadata key of how PEFT would read the configuration differently, which keeps the adapter from being saved for PEFT. */
export const NOT_FOR_PEFT = 'lily_not_for_peft'

export function compactMetadata(layers: Iterable<LayerShape>): [string, string] {
  const shapes = Array.from(layers, ({ name, inFeatures, outFeatures }) => [name, inFeatures, outFeatures])
  return [LAYERS, JSON.stringify(shapes)]
}

/** A copy of metadata without the keys of the compact format. */
export function withoutCompact(metadata: ReadonlyMap<string, string>): Map<string, string> {
  return new Map([...metadata].filter(([key]) => ![LAYERS, FROZEN, NOT_FOR_PEFT].includes(key)))
}

/** The layers of a compact file; null for a file in PEFT's format. */
export function compactLayers({ path, metadata }: SafetensorsFile): LayerShape[] | null {
  const text = metadata.get(LAYERS)
  if (text === undefined) return null
  const layers = parseJson(path, `its metadata ${LAYERS}`, text)
  if (Array.isArray(layers)) {
    // shareLayers checks names and sizes.
    return layers.map((layer: unknown) => {
      const [name, inFeatures, outFeatures] = Array.isArray(layer) ? (layer as unknown[]) : []
      return { name, inFeatures, outFeatures } as LayerShape
    })
  }
  throw checkpointError(path, `expected its metadata ${LAYERS} to be an array of layers; ${DAMAGED}`)
}
