/** Calibration: expert weights pooled over sample activations, and the error of freezing a layer to them. */
import { checkFloat, checkTokenRows } from '../base/checks.js'
import { countOf, describe, fail } from '../base/errors.js'
import { elementsOf, entriesOf } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { summarised } from '../base/summary.js'
import { toFloat32 } from '../tensor/numbers.js'
import { checkPlace } from '../memory/checks.js'
import { lilyForward } from '../operations/forward.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { Tensor, tensorOf } from '../tensor/tensor.js'
import { layerOf } from './adapter-model.js'
import type { LilyLayer } from './lily-layer.js'
import type { LilyModel } from './lily-model.js'

/** Sample inputs x of each layer, by layer name: [..., d_in], or [B, N, d_in] with routing 'sequence', one tensor per call. */
export type CalibrationSamples =
  ReadonlyMap<string, readonly TensorLike[]> | Readonly<Record<string, readonly TensorLike[]>>

/** Calibration of one layer. */
export interface LayerCalibration {
  /** `[E]`: the mean over the sample's tokens of the router's weights. */
  readonly weights: Float32Array
  /** Number of tokens of the sample. */
  readonly tokens: number
  /** The ratio |frozen - routed| / |routed| of 2-norms of the adapter's output over the whole sample, without the base layer. */
  readonly relativeError: number
}

/** Result of {@link LilyModel.calibrate}. */
export interface Calibration {
  /** [E] by layer, as {@link LilyModel.freeze} takes them. */
  readonly weights: ReadonlyMap<string, Float32Array>
  /** By layer name. */
  readonly layers: ReadonlyMap<string, LayerCalibration>
  /** The largest relative error (a ratio of norms) of any layer. */
  readonly relativeError: number
}

/** See {@link LilyModel.calibrate}. */
export async function calibrate(model: LilyModel, samples: CalibrationSamples): Promise<Calibration> {
  const layers = new Map<string, LayerCalibration>()
  for (const [layer, calls] of readSamples(model, samples)) {
    layers.set(layer.name, await calibrateLayer(layer, calls))
  }
  const weights = new Map(Array.from(layers, ([name, layer]) => [name, layer.weights]))
  let largest = 0
  for (const { relativeError } of layers.values()) largest = Math.max(largest, relativeError)
  return summarised({ weights, layers, relativeError: largest }, ({ layers, relativeError }) => {
    return `Calibration { ${countOf(layers.size, 'layer')}, relativeError up to ${relativeError.toPrecision(2)} }`
  })
}

/**
 * Reads and checks samples that the caller passed: the sample inputs of each layer.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED
 */
export function readSamples(model: LilyModel, samples: CalibrationSamples): [LilyLayer, readonly Tensor[]][] {
  const entries = entriesOf<unknown>('samples', samples)
  if (entries.length === 0) fail('ERR_LILY_ARGUMENT', 'samples', 'expected inputs of at least one layer, got none')
  const { routing } = model.config
  if (routing === 'uniform' || routing === 'learned') {
    const weights = routing === 'uniform' ? '1/E' : 'those of its logits'
    fail(
      'ERR_LILY_ARGUMENT',
      'samples',
      `expected a model with routers, got one with routing '${routing}', whose weights are ${weights} for any input; leave them out`,
    )
  }
  return entries.map(([name, calls]) => {
    const layer = layerOf(model.layers, 'samples', name)
    const given = elementsOf(calls)
    if (given !== null && given.length > 0) return [layer, given.map((x, i) => readSample(layer, x, i))]
    return fail('ERR_LILY_ARGUMENT', 'samples', `expected an array of tensors for '${name}', got ${describe(calls)}`)
  })
}

function sampleName({ name }: LilyLayer, index: number): string {
  return `samples['${name}'][${index}]`
}

/** A sample, read once: several calls use it. */
function readSample(layer: LilyLayer, x: unknown, index: number): Tensor {
  const argument = sampleName(layer, index)
  const operand = resolve(argument, x)
  checkTokenRows(argument, operand, operand.rows, layer.inFeatures)
  if (layer.config.routing === 'sequence' && operand.shape.length !== 3) {
    const got = shapeText(operand.shape)
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected [B, N, ${layer.inFeatures}] for routing 'sequence', got ${got}; reshape it`,
    )
  }
  checkFloat(argument, operand)
  checkPlace(argument, operand, 'the model', resolve(layer.a.name, layer.a.value))
  return x instanceof Tensor ? x : tensorOf(operand)
}

async function calibrateLayer(layer: LilyLayer, calls: readonly Tensor[]): Promise<LayerCalibration> {
  const { tokens, weights: mean } = await pooledWeights(layer, calls)
  const { routing } = layer.config
  const weights = Float32Array.from(mean)
  let [error, size] = [0, 0]
  for (const x of calls) {
    const routed = await outputOf(layer.forward({ x }, { routing, save: false }).y)
    const frozen = await outputOf(layer.forward({ x }, { routing: 'fixed', weights, save: false }).y)
    for (let i = 0; i < routed.length; i++) {
      error += (frozen[i] - routed[i]) ** 2
      size += routed[i] ** 2
    }
  }
  return { weights, tokens, relativeError: error === 0 ? 0 : Math.sqrt(error / size) }
}

/**
 * The mean of the weights of all groups of all calls, weighted by their numbers of tokens. The router is used even if the
 * layer is frozen.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for weights that are not finite, and without a token
 */
export async function pooledWeights(
  layer: LilyLayer,
  calls: readonly Tensor[],
): Promise<{ tokens: number; weights: Float64Array }> {
  const { a, router, b, config } = layer
  const { numB: experts, routing, pool, activation } = config
  const sum = new Float64Array(experts)
  let tokens = 0
  for (const [i, x] of calls.entries()) {
    // Calls lilyForward instead of layer.forward, which throws for a merged layer.
    const operands = { x, a: a.value, router: router.value, b: b.value }
    const { y, saved } = lilyForward(operands, { routing, pool, activation })
    const rows = saved.hidden.shape[0]
    // Token routing has no other weights than the probabilities.
    const weights = (await ((saved.weights ?? saved.probabilities) as Tensor).toHost()).data as Float32Array
    if (!weights.every(Number.isFinite)) {
      fail(
        'ERR_LILY_ARGUMENT',
        sampleName(layer, i),
        'expected weights of the experts that are finite, got infinities or NaN; look for them in it and in the parameters',
      )
    }
    const groups = weights.length / experts
    weights.forEach((weight, i) => (sum[i % experts] += (weight * rows) / groups))
    tokens += rows
    y.dispose()
    saved.dispose()
  }
  if (tokens === 0) {
    const expected = `expected at least one token for '${layer.name}', got none`
    fail('ERR_LILY_ARGUMENT', 'samples', `${expected}; leave the layer out`)
  }
  return { tokens, weights: sum.map((weight) => weight / tokens) }
}

async function outputOf(y: Tensor): Promise<Float32Array> {
  const { dtype, data } = await y.toHost()
  y.dispose()
  return toFloat32(dtype, data)
}
