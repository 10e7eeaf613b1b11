/** A small training that n ranks share, or that one process does: see test/mpi/training.test.ts. */
import {
  type AdapterModel,
  type AdapterSaved,
  type AdamWOptions,
  LilyModel,
  LoraModel,
  type Tensor,
  tensor,
} from '../../lib/index.js'
import { type Float, pack, unpack } from './dtypes.js'
import { gaussian, randomFrom } from './random.js'

export const KINDS = ['sequence', 'token', 'uniform', 'lora', 'batch'] as const
export type Kind = (typeof KINDS)[number]

const WIDTH = 12
const LAYERS = [0, 1, 2].map((l) => ({ name: `layers.${l}.proj`, inFeatures: WIDTH, outFeatures: WIDTH }))
/** Tokens of each sequence of the batch. */
const LENGTHS = [5, 3, 9, 1, 6, 4, 2, 8]
/** The sequences of each rank: unequal shares. */
const SHARES: Readonly<Record<number, readonly number[]>> = { 1: [8], 2: [3, 5], 4: [2, 1, 4, 1] }

/** Of a training. */
export const STEPS = 4

export const SETTINGS: AdamWOptions = {
  lr: 0.02,
  maxNorm: 0.5,
  // Large enough that a rounding of a small gradient does not change the sign of an update.
  eps: 1e-3,
  groups: [{ match: /_B/, lr: 0.05 }],
}

/** A model whose initial values are the same in every process. */
export function createModel(kind: Kind, dtype: Float = 'float32', seed = 7): AdapterModel {
  const targetModules = ['proj']
  if (kind === 'lora') {
    const model = LoraModel.create({ layers: LAYERS, config: { r: 4, loraAlpha: 8, targetModules }, seed, dtype })
    fill(model, seed)
    return model
  }
  const config = { r: 4, numB: 3, strideA: 2, scaling: 2, routing: kind, targetModules }
  const model = LilyModel.create({ layers: LAYERS, config, seed, dtype })
  fill(model, seed)
  return model
}

/** Values with which no gradient is zero. */
function fill(model: AdapterModel, seed: number): void {
  const random = randomFrom(seed)
  for (const { value } of model.parameters().values()) {
    const numbers = pack(value.dtype as Float, gaussian(random, value.data.length, 0.25))
    ;(value.data as Float32Array).set(numbers)
  }
}

export interface Share {
  readonly tokens: number
  readonly offsets: Int32Array
  readonly x: Float32Array
  readonly target: Float32Array
  /** [M]: 1 for a token that counts in the loss. */
  readonly kept: Uint8Array
  readonly keptTokens: number
}

/** The part of batch `step` that this rank of n computes. */
export function shareOf(step: number, rank: number, ranks: number): Share {
  const random = randomFrom(100 + step)
  const tokens = LENGTHS.reduce((sum, length) => sum + length, 0)
  const x = gaussian(random, tokens * WIDTH)
  const target = gaussian(random, tokens * WIDTH)
  const kept = Uint8Array.from({ length: tokens }, () => (random() < 0.6 ? 1 : 0))
  const first = SHARES[ranks].slice(0, rank).reduce((sum, count) => sum + count, 0)
  const lengths = LENGTHS.slice(first, first + SHARES[ranks][rank])
  const begin = LENGTHS.slice(0, first).reduce((sum, length) => sum + length, 0)
  const offsets = Int32Array.from([0, ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b, 0))])
  const end = begin + offsets[lengths.length]
  const part = kept.slice(begin, end)
  return {
    tokens: end - begin,
    offsets,
    x: x.slice(begin * WIDTH, end * WIDTH),
    target: target.slice(begin * WIDTH, end * WIDTH),
    kept: part,
    keptTokens: part.reduce((sum, isKept) => sum + isKept, 0),
  }
}

/**
 * Adds the gradients of the mean loss over the kept tokens of a share: half of the squared distance from the target, behind
 * a chain of residual layers. Returns the loss.
 */
export function addGradients(model: AdapterModel, kind: Kind, share: Share, dtype: Float = 'float32'): number {
  const { tokens, offsets, kept, keptTokens, target } = share
  const shape = [tokens, WIDTH]
  // Of Lily alone.
  const options: object = kind === 'sequence' ? { sequenceOffsets: offsets } : {}
  let x: Tensor = tensor(pack(dtype, share.x), shape, dtype)
  const saved: AdapterSaved[] = []
  for (const layer of model.layers.values()) {
    const y = tensor(x.data.slice(), shape, dtype)
    saved.push(layer.forward({ x, y }, options).saved)
    x = y
  }
  const y = unpack(dtype, x.data)
  let loss = 0
  const gradient = y.map((value, i) => {
    if (kept[Math.floor(i / WIDTH)] === 0) return 0
    const difference = value - target[i]
    loss += difference ** 2 / 2 / keptTokens
    return difference / keptTokens
  })
  const dy = tensor(pack(dtype, gradient), shape, dtype)
  for (const layer of [...model.layers.values()].reverse())
    layer.backward({ dy: copyOf(dy), saved: saved.pop()!, dx: dy })
  return loss
}

const copyOf = ({ data, shape, dtype }: Tensor) => tensor(data.slice(), shape, dtype)

/** The numbers of all values or gradients by name. */
export function numbersOf(model: AdapterModel, of: 'value' | 'grad'): Map<string, Float32Array> {
  return new Map(
    Array.from(model.parameters(), ([name, parameter]) => {
      const { dtype, data } = parameter[of]
      return [name, unpack(dtype, data)]
    }),
  )
}
