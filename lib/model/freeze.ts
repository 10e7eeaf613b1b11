/** Reads the weights with which layers are frozen. */
import { countOf, describe, fail } from '../base/errors.js'
import { elementsOf, entriesOf, isPlain } from '../base/options.js'
import { classNameOf } from '../base/views.js'
import { failDetached, isDetached } from '../memory/operand.js'
import { layerOf } from './adapter-model.js'
import type { LilyLayer } from './lily-layer.js'
import type { LilyModel } from './lily-model.js'

/** Weights that replace routers: 'uniform' (1/E), or weights [E] by layer name. */
export type FrozenWeights =
  | 'uniform'
  | ReadonlyMap<string, Float32Array | readonly number[]>
  | Readonly<Record<string, Float32Array | readonly number[]>>

/**
 * Reads, copies and checks the weights of the layers to freeze.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE
 */
export function readFrozenWeights(model: LilyModel, weights: unknown): Map<LilyLayer, Float32Array> {
  const { numB } = model.config
  const given =
    weights === 'uniform'
      ? Array.from(model.layers.keys(), (name) => [name, new Float32Array(numB).fill(1 / numB)] as const)
      : readWeights(weights, numB)
  const frozen = new Map(given.map(([name, values]) => [layerOf(model.layers, 'weights', name), values]))
  for (const layer of frozen.keys()) layer.checkNotMerged()
  return frozen
}

function readWeights(weights: unknown, experts: number): [string, Float32Array][] {
  if (typeof weights !== 'object' || weights === null) {
    fail('ERR_LILY_ARGUMENT', 'weights', `expected 'uniform', or weights [E] by layer name, got ${describe(weights)}`)
  }
  if (isPlain(weights) && 'relativeError' in weights) {
    fail(
      'ERR_LILY_ARGUMENT',
      'weights',
      'expected weights [E] by layer name, got all that calibrate returns; pass its weights',
    )
  }
  const entries = entriesOf('weights', weights as Readonly<Record<string, unknown>>)
  return entries.map(([name, values]) => [name, readNumbers(name, values, experts)])
}

function readNumbers(name: string, values: unknown, experts: number): Float32Array {
  const given = classNameOf(values) === 'Float32Array' ? (values as Float32Array) : elementsOf(values)
  if (ArrayBuffer.isView(given) && isDetached(given.buffer)) failDetached('weights')
  if (given?.length !== experts) {
    fail(
      'ERR_LILY_SHAPE',
      'weights',
      `expected an array or a Float32Array of ${countOf(experts, 'number')} (E) for '${name}', got ${describe(values)}`,
    )
  }
  const wrong = given.findIndex((value) => typeof value !== 'number' || !Number.isFinite(Math.fround(value)))
  if (wrong < 0) return Float32Array.from(given as number[])
  return fail(
    'ERR_LILY_ARGUMENT',
    'weights',
    `expected finite float32 numbers for '${name}', got ${describe(given[wrong])}`,
  )
}
