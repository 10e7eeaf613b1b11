/** Export of a frozen Lily adapter as a LoRA adapter. */
import { countOf, fail } from '../base/errors.js'
import { summarised } from '../base/summary.js'
import { copyFloat32 } from '../tensor/numbers.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { checkLinear, FREEZE_FIRST } from './lily-config.js'
import type { LilyLayer } from './lily-layer.js'
import type { LilyModel } from './lily-model.js'
import type { Parameter } from './parameter.js'

/** The LoRA matrices of one layer, as PEFT's lora_A.weight and lora_B.weight: the output is scaling * (x a^T) b^T. */
export interface LoraMatrices {
  /** [r, d_in] */
  readonly a: Tensor
  /** [d_out, r] */
  readonly b: Tensor
}

/** A LoRA adapter, in the form that {@link loraForward} expects. */
export interface LoraAdapter {
  /** Rank. */
  readonly r: number
  /** Factor on the output: PEFT's lora_alpha / r. */
  readonly scaling: number
  /** By layer name, in the order of the model. */
  readonly layers: ReadonlyMap<string, LoraMatrices>
}

/**
 * Returns, for each layer, A and C^T with C = sum_e w_e B_e, as float32 on the host. With constant weights w, Lily is
 * LoRA of rank r (docs/math.md, LoRA). With routing 'learned' w is softmax(z).
 *
 * @throws LilyError ERR_LILY_ARGUMENT if the weights of a layer are not constant, or for activation 'relu'; ERR_LILY_DISPOSED
 */
export async function exportLora(model: LilyModel): Promise<LoraAdapter> {
  // Freezing a model that is disposed of, as the error about a router advises, would not help.
  model.allParameters()
  checkLinear('model', model.config)
  const weighted: { layer: LilyLayer; weights: Float32Array }[] = []
  for (const layer of model.layers.values()) {
    const weights = await layer.constantWeights()
    if (weights !== undefined) weighted.push({ layer, weights })
    else {
      fail(
        'ERR_LILY_ARGUMENT',
        'model',
        `expected frozen layers, but '${layer.name}' has a router, which LoRA cannot express; ${FREEZE_FIRST}`,
      )
    }
  }
  const values = new Map<Parameter, Promise<Float32Array>>()
  const valuesOf = (parameter: Parameter) => {
    const known = values.get(parameter) ?? onHost(parameter.value)
    values.set(parameter, known)
    return known
  }
  const { r, scaling } = model.config
  const layers = new Map<string, LoraMatrices>()
  for (const { layer, weights } of weighted) {
    const { name, a, b, inFeatures, outFeatures } = layer
    layers.set(name, {
      a: tensor((await valuesOf(a)).slice(), [r, inFeatures]),
      b: tensor(combinedTransposed(await valuesOf(b), weights, r, outFeatures), [outFeatures, r]),
    })
  }
  return summarised({ r, scaling, layers }, ({ r, scaling, layers }) => {
    return `LoraAdapter { ${countOf(layers.size, 'layer')}, r ${r}, scaling ${scaling} }`
  })
}

async function onHost(value: Tensor): Promise<Float32Array> {
  const { dtype, data } = await value.toHost()
  return copyFloat32(dtype, data)
}

/** C = sum_e w_e B_e, [r, d_out] in row-major order; b is [E*r, d_out]. The sum over the experts is in float64. */
export function combinedProjector(b: Float32Array, weights: Float32Array): Float64Array {
  const combined = new Float64Array(b.length / weights.length)
  for (const [e, weight] of weights.entries()) {
    const first = e * combined.length
    for (let i = 0; i < combined.length; i++) combined[i] += weight * b[first + i]
  }
  return combined
}

/** C^T [d_out, r] */
function combinedTransposed(b: Float32Array, weights: Float32Array, rank: number, dOut: number): Float32Array {
  const combined = combinedProjector(b, weights)
  const transposed = new Float32Array(dOut * rank)
  for (let i = 0; i < rank; i++) for (let j = 0; j < dOut; j++) transposed[j * rank + i] = combined[i * dOut + j]
  return transposed
}
