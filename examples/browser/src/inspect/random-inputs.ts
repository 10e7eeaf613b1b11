/** Inputs for routers, where a folder has no activations of its base model. */
import { tensor, type Tensor } from 'lily-kernels'

export const RANDOM_TOKENS = 256

/** Standard normal inputs for each layer, the same for all layers of one width. */
export function randomInputs(
  layers: readonly { readonly name: string; readonly inFeatures: number }[],
): Map<string, [Tensor]> {
  const byWidth = new Map<number, Tensor>()
  return new Map(
    layers.map(({ name, inFeatures }) => {
      const x = byWidth.get(inFeatures) ?? tensor(normal(RANDOM_TOKENS * inFeatures), [1, RANDOM_TOKENS, inFeatures])
      byWidth.set(inFeatures, x)
      return [name, [x]]
    }),
  )
}

/** Numbers of the standard normal distribution, by the method of Box and Muller, always the same ones. */
export function normal(length: number, seed = 1): Float32Array {
  let state = seed
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()))
}
