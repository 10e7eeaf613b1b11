/** Analysis of a LoRA adapter: the singular values of the updates of its layers. */
import { countOf } from '../base/errors.js'
import { grouped, summarised } from '../base/summary.js'
import type { LoraModel } from '../model/lora-model.js'
import { valuesOf } from './values.js'
import { gramFactor } from './spectrum.js'
import { analyseSingularValues, rankText, type SingularValueAnalysis } from './updates.js'

/** Analysis of one layer. */
export interface LoraLayerAnalysis {
  /** Name of the layer. */
  readonly name: string
  /** Suffix of `targetModules`, or the pattern. */
  readonly target: string
  /** d_in. */
  readonly inFeatures: number
  /** d_out. */
  readonly outFeatures: number
  /** Rank. */
  readonly r: number
  /** Factor on the layer's output. */
  readonly scaling: number
  /** Number of elements of A and B. */
  readonly parameters: number
  /** Its update, scaling * B A. */
  readonly update: SingularValueAnalysis
}

/** Result of {@link analyse} for a LoraModel, as plain data. */
export interface LoraAnalysis {
  /** Rank of the configuration. */
  readonly r: number
  /** Alpha of the configuration, the factor before it is divided. */
  readonly loraAlpha: number
  /** Whether alpha is divided by sqrt(r) instead of r. */
  readonly useRslora: boolean
  /** In the order of the model. */
  readonly layers: readonly LoraLayerAnalysis[]
}

/** The update of a layer is scaling * B A. */
export async function analyseLora(
  { config, layers }: LoraModel,
  onProgress: ((name: string, done: number, layers: number) => void) | undefined,
): Promise<LoraAnalysis> {
  const analyses: LoraLayerAnalysis[] = []
  for (const { name, shape, r, scaling, a, b } of layers.values()) {
    onProgress?.(name, analyses.length, layers.size)
    const [valuesA, valuesB] = [await valuesOf(a), await valuesOf(b)]
    const factor = gramFactor(new Float64Array(valuesA), r)
    const { target, inFeatures, outFeatures } = shape
    const update = analyseSingularValues(factor, transposed(valuesB, outFeatures, r), r, scaling)
    const parameters = valuesA.length + valuesB.length
    analyses.push({ name, target, inFeatures, outFeatures, r, scaling, parameters, update })
  }
  const { r, loraAlpha, useRslora } = config
  return summarised({ r, loraAlpha, useRslora, layers: analyses }, ({ layers }) => {
    const parameters = grouped(layers.reduce((sum, { parameters }) => sum + parameters, 0))
    return `LoraAnalysis { r ${r}, ${countOf(layers.length, 'layer')}, ${parameters} parameters, ${rankText(layers)} }`
  })
}

/** B^T [r, d_out]. */
function transposed(b: Float32Array, dOut: number, r: number): Float64Array {
  const transpose = new Float64Array(b.length)
  for (let j = 0; j < dOut; j++) for (let i = 0; i < r; i++) transpose[i * dOut + j] = b[j * r + i]
  return transpose
}
