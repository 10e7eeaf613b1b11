/** Reads the weights with which layers are frozen. */
import { describe, fail } from '../base/errors.js'
import type { LilyLayer } from './layer.js'
import type { LilyModel } from './model.js'

/** Weights that replace routers: 'uniform' (1/E), or weights [E] by layer name. */
export type FrozenWeights =
  | 'uniform'
  | ReadonlyMap<string, Float32Array | readonly number[]>
  | Readonly<Record<string, Float32Array | readonly number[]>>

/**
 * Reads and checks the weights of the layers to freeze, and copies them.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE
 */
export function readFrozenWeights(model: LilyModel, weights: FrozenWeights): Map<LilyLayer, Float32Array> {
  const frozen = new Map<LilyLayer, Float32Array>()
  const { numB } = model.config
  for (const [name, values] of entriesOf(model, weights)) {
    const layer = model.layer(name)
    layer.checkNotMerged()
    const isArray = values instanceof Float32Array || Array.isArray(values)
    if (!isArray || values.length !== numB) {
      fail('ERR_LILY_SHAPE', 'weights', `expected ${numB} numbers (E) for '${name}', got ${describe(values)}`)
    }
    const copy = Float32Array.from(values as ArrayLike<number>)
    if (!copy.every(Number.isFinite)) {
      fail('ERR_LILY_ARGUMENT', 'weights', `expected finite float32 numbers for '${name}', got ${copy.join(', ')}`)
    }
    frozen.set(layer, copy)
  }
  return frozen
}

function entriesOf(model: LilyModel, weights: unknown): Iterable<[string, unknown]> {
  if (weights === 'uniform') {
    const { numB } = model.config
    return Array.from(model.layers.keys(), (name) => [name, new Float32Array(numB).fill(1 / numB)])
  }
  if (weights instanceof Map) return weights as Map<string, unknown>
  if (typeof weights === 'object' && weights !== null) return Object.entries(weights)
  return fail(
    'ERR_LILY_ARGUMENT',
    'weights',
    `expected 'uniform', or weights [E] by layer name, got ${describe(weights)}`,
  )
}
