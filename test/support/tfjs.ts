/** Adapters composed of operations of TensorFlow.js, which differentiates them by itself. */
import '@tensorflow/tfjs-backend-wasm'
import * as tf from '@tensorflow/tfjs'
import { expect } from 'vitest'
import type { AdapterModel, Parameter, Pool, Routing } from '../../lib/index.js'
import { relativeError } from './compare.js'
import { maskOf, thresholdOf } from './philox.js'

/** The backends that need no GPU. */
export const BACKENDS = ['cpu', 'wasm']

/**
 * Both sides are float32. Their sums have up to 40 terms, so that an error of a few of their roundings is expected; a
 * forgotten term, mask or factor changes results by a part that is thousands of times larger.
 */
export const TOLERANCE = 32 * 2 ** -24

export function expectEqual(name: string, actual: tf.Tensor | ArrayLike<number>, expected: tf.Tensor): void {
  const numbers = actual instanceof tf.Tensor ? actual.dataSync() : actual
  if (actual instanceof tf.Tensor) expect(actual.shape, name).toEqual(expected.shape)
  expect(relativeError(numbers, expected.dataSync()), `${name}: relative error`).toBeLessThanOrEqual(TOLERANCE)
}

/** The same numbers on every backend. */
export function normal(shape: number[], seed: number): tf.Tensor {
  return tf.randomNormal(shape, 0, 1, 'float32', seed)
}

export interface Case {
  routing: Routing
  pool?: Pool
  activation?: 'none' | 'relu'
  scaling: number
  /** [M], 1 keeps a token. */
  mask?: number[]
  /** Cumulative offsets of sequences. */
  offsets: number[]
  /** [G, E], for fixed routing. */
  weights?: tf.Tensor
}

/** scaling * h C of Lily (docs/math.md). `router` is [E, r], or [E, 1] for learned routing; `b` is [E, r, d_out]. */
export function lilyOf(x: tf.Tensor, a: tf.Tensor, router: tf.Tensor, b: tf.Tensor, settings: Case): tf.Tensor {
  const { routing, pool = 'probabilities', activation, scaling, offsets } = settings
  const [experts, rank, dOut] = b.shape
  const tokens = x.size / x.shape.at(-1)!
  const product = tf.matMul(tf.reshape(x, [tokens, -1]), a, false, true)
  const hidden = activation === 'relu' ? tf.relu(product) : product
  const keep = tf.tensor2d(settings.mask ?? new Array<number>(tokens).fill(1), [tokens, 1])
  const groups = offsets.slice(1).map((end, g) => [offsets[g], end - offsets[g]])

  /** [M, E]: the weights of each token. */
  const weightsOf = (): tf.Tensor => {
    if (routing === 'learned') return tf.tile(tf.softmax(tf.reshape(router, [1, experts])), [tokens, 1])
    const logits = tf.matMul(hidden, router, false, true)
    if (routing === 'token') return tf.softmax(logits)
    if (routing === 'uniform') return tf.fill([tokens, experts], 1 / experts)
    const ofGroups = groups.map(([start, length], g) => {
      const part = (t: tf.Tensor) => tf.slice(t, [start, 0], [length, -1])
      if (routing === 'fixed') return tf.slice(settings.weights as tf.Tensor, [g, 0], [1, -1])
      if (pool === 'logits') return tf.softmax(tf.sum(tf.mul(part(logits), part(keep)), 0, true))
      const kept = tf.sum(tf.mul(part(tf.softmax(logits)), part(keep)), 0, true)
      return tf.div(kept, tf.sum(part(keep)))
    })
    return tf.concat(ofGroups.map((weights, g) => tf.tile(weights, [groups[g][1], 1])))
  }
  const weights = weightsOf()
  const outputs = Array.from({ length: experts }, (_, e) => {
    const expert = tf.reshape(tf.slice(b, [e, 0, 0], [1, -1, -1]), [rank, dOut])
    return tf.mul(tf.matMul(hidden, expert), tf.slice(weights, [0, e], [-1, 1]))
  })
  return tf.reshape(tf.mul(tf.addN(outputs), scaling), [...x.shape.slice(0, -1), dOut])
}

/** What the call of a model that makes the n-th draw, from 0, multiplies x with, [M, d_in]. */
export function maskOfDraw(
  { dropoutState }: AdapterModel,
  n: number,
  rate: number,
  shape: [number, number],
): tf.Tensor {
  const [seedLow, seedHigh] = dropoutState.data
  const mask = maskOf(...shape, { rate, draw: Int32Array.of(seedLow, seedHigh, n, 0) })
  return tf.mul(tf.tensor(mask, shape, 'float32'), 65536 / (65536 - thresholdOf(rate)))
}

/** scaling * (x a^T) b^T of LoRA. */
export function loraOf(x: tf.Tensor, a: tf.Tensor, b: tf.Tensor, scaling: number): tf.Tensor {
  const hidden = tf.matMul(tf.reshape(x, [-1, x.shape.at(-1)!]), a, false, true)
  const product = tf.matMul(hidden, b, false, true)
  return tf.reshape(tf.mul(product, scaling), [...x.shape.slice(0, -1), b.shape[0]])
}

/** A parameter's value as a tensor of its own memory. */
export function valueOf({ value }: Parameter, shape: number[] = value.shape): tf.Tensor {
  return tf.tensor((value.data as Float32Array).slice(), shape)
}

export function gradOf({ grad }: Parameter): Float32Array {
  return grad.data as Float32Array
}

/** All gradients of a model, copied. */
export function gradsOf(model: AdapterModel): number[][] {
  return Array.from(model.parameters().values(), (parameter) => [...gradOf(parameter)])
}
