/** Trainable parameters of a whole model. At one rank, Lily and LoRA differ most in these. */
import type { Shape } from './shapes.js'

/** L adapted layers of one target; each group of `strideA` neighbouring layers shares one A. */
export interface Model {
  readonly layers: number
  readonly strideA: number
}

/** ceil(L / strideA) projectors A, E experts B shared by all layers, L routers. */
export function lilyParameters({ layers, strideA }: Model, { d, rank, experts }: Shape): number {
  return Math.ceil(layers / strideA) * rank * d + experts * rank * d + layers * experts * rank
}

/**
 * The rank, at least 1, at which LoRA's number of parameters is closest to Lily's. LoRA has an A and a B in every layer.
 */
export function equalParametersRank(model: Model, shape: Shape): number {
  return Math.max(1, Math.round(lilyParameters(model, shape) / (model.layers * 2 * shape.d)))
}
