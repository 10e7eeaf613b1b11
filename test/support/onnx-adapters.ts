/** Adapters for the tiny models of onnx-models.ts, and the inputs with which tests run them. */
import { type AdapterModel, type LilyConfigOptions, LilyModel, LoraModel } from '../../lib/index.js'
import type { TinyLayer } from './onnx-models.js'
import type { EncoderInputs } from './onnx-sessions.js'
import { gaussian, randomFrom } from './random.js'

/** Creates an adapter of a rank and a number of experts, which LoRA has not. */
export type Create = (
  layers: readonly TinyLayer[],
  targetModules: readonly string[],
  r: number,
  numB: number,
) => AdapterModel

const shapes = (layers: readonly TinyLayer[]) =>
  layers.map(({ name, inFeatures, outFeatures }) => ({ name, inFeatures, outFeatures }))

/** Sets all parameters to random values, so that the adapter changes the logits much. */
function randomized<M extends AdapterModel>(model: M): M {
  const random = randomFrom(54)
  for (const { value } of model.allParameters().values())
    value.data.set(gaussian(random, value.data.length, 0.5 / Math.sqrt(value.shape[0])))
  return model
}

const lily =
  (routing: LilyConfigOptions['routing']) =>
  (layers: readonly TinyLayer[], targetModules: readonly string[], r: number, numB: number): LilyModel => {
    const config = { strideA: 2, scaling: 1.5, routing, r, numB, targetModules }
    return randomized(LilyModel.create({ layers: shapes(layers), config }))
  }

/** The kinds of adapters whose graphs differ. Constant mixtures of Lily have that of LoRA. */
export const KINDS: Readonly<Record<string, Create>> = {
  LoRA: (layers, targetModules, r) => {
    const config = { r, loraAlpha: 6, useRslora: true, targetModules }
    return randomized(LoraModel.create({ layers: shapes(layers), config }))
  },
  'Lily, token': lily('token'),
  'Lily, sequence': lily('sequence'),
  'Lily, batch': lily('batch'),
}

/** Two adapters of different ranks, and none. */
export interface Adapters {
  readonly first: AdapterModel
  readonly second: AdapterModel
  readonly base: null
}

export const adaptersOf = (
  create: Create,
  layers: readonly TinyLayer[],
  targetModules: readonly string[],
): Adapters => ({
  first: create(layers, targetModules, 3, 2),
  second: create(layers, targetModules, 8, 4),
  base: null,
})

/** The layers of the encoder with an input for each token. The classifier has one for each text. */
export const ENCODER_TARGETS = ['query', 'key', 'value', 'dense']
/** The layers of the decoder, but for that with a Gemm, whose rows are of no sequence. */
export const DECODER_TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'lm_head']

/** Two texts for the encoder, of which the second is shorter. */
export const TEXTS: EncoderInputs = {
  shape: [2, 5],
  ids: [7, 31, 2, 18, 9, 25, 4, 11, 0, 0],
  flags: [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
}

/** Calls of the decoder with tokens of two texts, which follow those of the calls before, each with an adapter. */
export const CALLS: readonly (readonly [tokens: readonly number[], name: keyof Adapters])[] = [
  [[3, 17, 8, 30, 29, 5, 12, 21], 'first'],
  [[14, 6], 'first'],
  [[9, 39], 'second'],
  [[2, 2], 'base'],
  [[33, 1], 'second'],
  [[10, 20], 'first'],
]

/** The limit of {@link distance} between two programs that compute in float32. */
export const FLOAT32 = 1e-5

/** The largest |actual - expected| / (1 + |expected|); NaN if one is NaN. */
export function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers, expected ${expected.length}`)
  return Math.max(...Array.from(expected, (value, i) => Math.abs(actual[i] - value) / (1 + Math.abs(value))))
}
