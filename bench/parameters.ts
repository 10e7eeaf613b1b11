/** Trainable parameters of a whole model, which is where Lily and LoRA of one rank differ most. */
import type { Shape } from './shapes.js'

/** L adapted layers of one target, each group of `strideA` neighbours with one A. */
export interface Model {
  readonly layers: number
  readonly strideA: number
}

/** ceil(L / strideA) projectors A, E experts B shared by all, L routers. */
export function lilyParameters({ layers, strideA }: Model, { d, rank, experts }: Shape): number {
  return Math.ceil(layers / strideA) * rank * d + experts * rank * d + layers * experts * rank
}

/** The rank at which LoRA, with an A and a B in every layer, comes nearest to Lily's number of parameters; 1 at least. */
export function equalParametersRank(model: Model, shape: Shape): number {
  return Math.max(1, Math.round(lilyParameters(model, shape) / (model.layers * 2 * shape.d)))
}
