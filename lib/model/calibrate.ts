/** Calibration: expert weights pooled over sample activations, and the error of freezing a layer to them. */
import { checkFloat, checkTokenRows } from '../base/checks.js'
import { countOf, describe, fail } from '../base/errors.js'
import { elementsOf, entriesOf } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { summarised } from '../base/summary.js'
import { copyFloat32 } from '../tensor/numbers.js'
import { checkPlace } from '../memory/checks.js'
import { lilyForward } from '../operations/forward.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { Tensor, tensorOf } from '../tensor/tensor.js'
import { layerOf } from './adapter-model.js'
import { type ExpertProducts, FreezingError, productsOf } from './freezing-error.js'
import type { LilyLayer } from './lily-layer.js'
import type { LilyModel } from './lily-model.js'
import type { Parameter } from './parameter.js'

/** Sample inputs x of each layer, by layer name: [..., d_in], or [B, N, d_in] with routing 'sequence', one tensor per call. */
export type CalibrationSamples =
  ReadonlyMap<string, readonly TensorLike[]> | Readonly<Record<string, readonly TensorLike[]>>

/** Calibration of one layer. */
export interface LayerCalibration {
  /** `[E]`: the mean over the sample's tokens of the router's weights. */
  readonly weights: Float32Array
  /** Number of tokens of the sample. */
  readonly tokens: number
  /**
   * The ratio |frozen - routed| / |routed| of 2-norms of the adapter's output over all tokens, without the base layer. It is
   * computed in float64 from h and the weights of the experts, so that it has no rounding of the output.
   */
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
  const read = readSamples(model, samples)
  const calibrator = new Calibrator(model)
  for (const [layer, calls] of read) {
    for (const [i, x] of calls.entries()) await calibrator.add(layer, x, sampleName(layer, i))
  }
  return calibrator.finish()
}

/** The sums over the calls of a layer. */
interface Sums {
  readonly mean: MeanWeights
  readonly error: FreezingError
}

/**
 * A calibration of the layers of a model call by call, which keeps no inputs: {@link LilyModel.calibrator} creates it. It keeps
 * E^2 + 3 E + 3 numbers for each layer, and E (E + 1) r (r + 1) / 4 for each B, in float64.
 */
export class Calibrator {
  readonly #layers = new Map<LilyLayer, Sums>()
  readonly #products = new Map<Parameter, Promise<ExpertProducts>>()
  /** Versions of the parameters when they were first used. */
  readonly #versions = new Map<Parameter, number>()
  /** Settled once all calls are added. */
  #last: Promise<unknown> = Promise.resolve()

  /** @internal */
  constructor(private readonly model: LilyModel) {}

  /**
   * Adds a call of a layer. Its output for x is not needed, so that the base model may run with the adapter, without it or with
   * other weights. On the host x is read before the function returns, and on a device in the order of its stream. Do not
   * change the parameters until {@link finish}. A call that is refused counts for nothing.
   *
   * @param name of the layer
   * @param x its input: [..., d_in], or [B, N, d_in] with routing 'sequence'
   * @returns a promise that resolves when the call has been added; until then only h [M, r] of x is kept
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT also for parameters that have changed since the layer's first call, and
   *   for weights that are not finite; as {@link LilyModel.calibrate}
   */
  async observe(name: string, x: TensorLike): Promise<void> {
    const layer = layerOf(this.model.layers, 'name', name)
    await this.add(layer, readSample(layer, x, 'x'), 'x')
  }

  /**
   * The calibration from all calls until now; more may follow.
   *
   * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT if there was no call, or if a layer has had no token
   */
  async finish(): Promise<Calibration> {
    await this.#last
    if (this.#layers.size === 0) {
      fail(
        'ERR_LILY_ARGUMENT',
        'calibrator',
        'expected at least one call, got none; call observe(name, x) before finish()',
      )
    }
    const layers = new Map<string, LayerCalibration>()
    for (const [{ name }, { mean, error }] of this.#layers) {
      const weights = Float32Array.from(mean.of(name))
      layers.set(name, { weights, tokens: mean.tokens, relativeError: error.relativeTo(weights) })
    }
    const weights = new Map(Array.from(layers, ([name, layer]) => [name, layer.weights]))
    const relativeError = Math.max(...Array.from(layers.values(), (layer) => layer.relativeError))
    return summarised({ weights, layers, relativeError }, (of) => {
      return `Calibration { ${countOf(of.layers.size, 'layer')}, relativeError up to ${of.relativeError.toPrecision(2)} }`
    })
  }

  /** @internal Adds a call whose x was checked. */
  async add(layer: LilyLayer, x: Tensor, argument: string): Promise<void> {
    layer.checkNotMerged()
    for (const parameter of layer.parameters) this.#checkVersion(parameter)
    const { numB, r, scaling } = layer.config
    const products = this.#products.get(layer.b) ?? productsOf(layer.b.value, numB, r, scaling)
    this.#products.set(layer.b, products)
    const routed = Promise.all([routeCall(layer, x, argument, true), products])
    // Calls are added in their order, so that the bits of the sums do not depend on which is computed first.
    const turn = Promise.allSettled([routed, this.#last]).then(async () => {
      const [{ weights, tokens, hidden }, ofB] = await routed
      const sums = this.#layers.get(layer) ?? { mean: new MeanWeights(numB), error: new FreezingError(ofB) }
      this.#layers.set(layer, sums)
      sums.mean.add(weights, tokens)
      sums.error.add(weights, hidden)
    })
    this.#last = turn.catch(() => undefined)
    await turn
  }

  #checkVersion(parameter: Parameter): void {
    const { version } = resolve(parameter.name, parameter.value)
    const first = this.#versions.get(parameter) ?? version
    this.#versions.set(parameter, first)
    if (version === first) return
    fail(
      'ERR_LILY_ARGUMENT',
      'calibrator',
      `expected the parameters of the first call, but an optimiser has changed ${parameter.name}; create another calibrator`,
    )
  }
}

/**
 * Reads and checks samples that the caller passed: the sample inputs of each layer.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED
 */
export function readSamples(model: LilyModel, samples: CalibrationSamples): [LilyLayer, readonly Tensor[]][] {
  const entries = entriesOf<unknown>('samples', samples)
  if (entries.length === 0) fail('ERR_LILY_ARGUMENT', 'samples', 'expected inputs of at least one layer, got none')
  checkRouters('samples', model)
  return entries.map(([name, calls]) => {
    const layer = layerOf(model.layers, 'samples', name)
    const given = elementsOf(calls)
    if (given !== null && given.length > 0)
      return [layer, given.map((x, i) => readSample(layer, x, sampleName(layer, i)))]
    return fail('ERR_LILY_ARGUMENT', 'samples', `expected an array of tensors for '${name}', got ${describe(calls)}`)
  })
}

/** Checks that the weights of a model depend on the input. */
export function checkRouters(argument: string, { config: { routing } }: LilyModel): void {
  if (routing !== 'uniform' && routing !== 'learned') return
  const weights = routing === 'uniform' ? '1/E' : 'the softmax of its logits'
  const advice = argument === 'samples' ? 'leave them out' : 'merge or export it as it is'
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected a model with routers, got one with routing '${routing}', whose weights are ${weights} for any input; ${advice}`,
  )
}

function sampleName({ name }: LilyLayer, index: number): string {
  return `samples['${name}'][${index}]`
}

/** A sample, read once: several calls use it. */
function readSample(layer: LilyLayer, x: unknown, argument: string): Tensor {
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
  const mean = new MeanWeights(layer.config.numB)
  for (const [i, x] of calls.entries()) {
    const { weights, tokens } = await routeCall(layer, x, sampleName(layer, i), false)
    mean.add(weights, tokens)
  }
  return { tokens: mean.tokens, weights: mean.of(layer.name) }
}

/** What the router makes of a call. */
interface RoutedCall {
  /** [G, E]. Each group has as many consecutive tokens. */
  readonly weights: Float32Array
  readonly tokens: number
  /** [M, r]: h. */
  readonly hidden: Float32Array
}

/** @param keepsHidden otherwise `hidden` is empty */
async function routeCall(
  { a, router, b, config }: LilyLayer,
  x: Tensor,
  argument: string,
  keepsHidden: boolean,
): Promise<RoutedCall> {
  const { routing, pool, activation } = config
  // Calls lilyForward instead of layer.forward, which throws for a merged layer.
  const operands = { x, a: a.value, router: router.value, b: b.value }
  const { y, saved } = lilyForward(operands, { routing, pool, activation })
  const tokens = saved.hidden.shape[0]
  // Token routing has no other weights than the probabilities.
  const [kept, h] = await Promise.all([
    ((saved.weights ?? saved.probabilities) as Tensor).toHost(),
    keepsHidden ? saved.hidden.toHost() : null,
  ])
  const weights = (kept.data as Float32Array).slice()
  const hidden = h === null ? new Float32Array(0) : copyFloat32(h.dtype, h.data)
  y.dispose()
  saved.dispose()
  if (weights.every(Number.isFinite)) return { weights, tokens, hidden }
  return fail(
    'ERR_LILY_ARGUMENT',
    argument,
    'expected weights of the experts that are finite, got infinities or NaN; look for them in it and in the parameters',
  )
}

/** The mean of the experts' weights. */
class MeanWeights {
  readonly #sum: Float64Array
  #tokens = 0

  constructor(private readonly experts: number) {
    this.#sum = new Float64Array(experts)
  }

  get tokens(): number {
    return this.#tokens
  }

  add(weights: Float32Array, tokens: number): void {
    const groups = weights.length / this.experts
    weights.forEach((weight, i) => (this.#sum[i % this.experts] += (weight * tokens) / groups))
    this.#tokens += tokens
  }

  /** @throws LilyError ERR_LILY_ARGUMENT without a token */
  of(layer: string): Float64Array {
    if (this.#tokens > 0) return this.#sum.map((weight) => weight / this.#tokens)
    const expected = `expected at least one token for '${layer}', got none`
    return fail('ERR_LILY_ARGUMENT', 'samples', `${expected}; leave the layer out`)
  }
}
