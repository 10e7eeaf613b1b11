/** AdamW. */
import { describe, fail, LilyError } from '../base/errors.js'
import { checkKeys, get, type Known } from '../base/options.js'
import { disposeSymbol } from '../base/symbols.js'
import { newOperand } from '../memory/allocate.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import type { Device } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import type { TensorLike } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Stream } from '../tensor/stream.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import { runAdamW } from './launch.js'
import { checkMoments, checkNames, copyTo, disposeMoments, type Moments, newMoments, readMoments } from './moments.js'
import { type AdamWOptions, readFromZero, readSettings, type Settings } from './options.js'
import {
  checkParameters,
  checkValue,
  readNames,
  readParameters,
  readValue,
  type TrainableParameter,
} from './parameters.js'

/** All that AdamW keeps from step to step: what {@link AdamW.state} gives and {@link AdamW.load} takes. */
export interface AdamWState<T extends TensorLike = Tensor> {
  /** Steps done. */
  readonly step: number
  /** By name: the running means of the gradient and of its square, float32, of the parameter's shape. */
  readonly parameters: Readonly<Record<string, { readonly expAvg: T; readonly expAvgSq: T }>>
}

/** Options of {@link AdamW.step}. */
export interface AdamWStepOptions {
  /** Multiplies the learning rate of every group in this step: what a schedule gives. Default 1. */
  readonly lrScale?: number | undefined
  /** The CUDA stream to run in, or its handle. Default: that of the operands. The cpu has none. */
  readonly stream?: Stream | bigint | number | undefined
}

const STEP_OPTIONS: Known = new Set(['lrScale', 'stream'])
const STATE: Known = new Set(['step', 'parameters'])

/**
 * Adam with decoupled weight decay (arXiv 1711.05101), as torch.optim.AdamW has it, and torch.nn.utils.clip_grad_norm_
 * before it, for all parameters at once:
 *
 *     g     = grad min(1, maxNorm / (norm + 1e-6))             norm = |all gradients|; without maxNorm g = grad
 *     m     = beta1 m + (1 - beta1) g
 *     v     = beta2 v + (1 - beta2) g²
 *     value = (1 - lr weightDecay) value - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)       t: the step
 *
 * Arithmetic and state (m, v) are float32. A 16-bit value is rounded once, to nearest even, and has no copy in float32:
 * a change below half the distance to the next number is lost, so that values that small rates train belong in float32.
 * The gradients are not written, to scale them neither. As in PyTorch a norm that is not finite is not caught: infinity
 * makes finite gradients zero and infinite ones NaN, NaN makes all NaN.
 *
 * The same steps give the same bits, whatever the number of threads. On CUDA a step is enqueued and waits for nothing.
 *
 * @example
 * const optimiser = new AdamW(model.parameters(), { lr: 1e-3, maxNorm: 1, groups: [{ match: /lily_B/, lr: 1e-2 }] })
 * // forward, backward
 * optimiser.step()
 * model.zeroGrad()
 */
export class AdamW {
  readonly #parameters: ReadonlyMap<string, TrainableParameter>
  readonly #settings: Settings
  readonly #device: Device
  /** Null once disposed of. */
  #moments: Map<string, Moments> | null
  #step = 0
  #norm: Operand | null = null

  /**
   * @param parameters by name; the map is kept, and `value` and `grad` of its entries are read in every step, so that
   *   they may be getters. The names, the shapes and the device stay what they are now.
   * @throws LilyError
   */
  constructor(parameters: ReadonlyMap<string, TrainableParameter>, options: AdamWOptions = {}) {
    const names = readNames(parameters)
    this.#parameters = parameters
    this.#settings = readSettings(options, names)
    const values = names.map((name) => readValue(parameters, name))
    this.#device = values[0].device
    for (const [i, name] of names.entries()) checkValue(name, values[i], this.#device, values[i].shape)
    // In a record the moments would be made zero by every replay.
    this.#moments = Capture.outside(() => {
      const placement = Placement.of(this.#device, null, () => [])
      return new Map(names.map((name, i) => [name, newMoments(name, values[i].shape, placement)]))
    })
  }

  /** Steps done. */
  get stepCount(): number {
    return this.#step
  }

  /**
   * [1], float32, on the parameters' device: the norm of all gradients in the last step, before they were clipped. The
   * next step overwrites it. Undefined without `maxNorm` and before the first step.
   */
  get gradNorm(): Tensor | undefined {
    this.#open()
    return this.#norm === null ? undefined : tensorOf(this.#norm.share())
  }

  /**
   * Updates all values from their gradients.
   *
   * @throws LilyError; a refused step has written nothing
   */
  step(options: AdamWStepOptions = {}): void {
    const moments = this.#open()
    refuseInCapture("an optimiser's step", 'its number is in it, so call step() after replay()')
    checkKeys('options', options, STEP_OPTIONS)
    const lrScale = readFromZero('options', options, 'lrScale', 1)
    const stream = readStream(options)
    const parameters = readParameters(this.#parameters, [...moments.keys()])
    for (const [i, { expAvg }] of [...moments.values()].entries()) {
      checkValue(parameters[i].name, parameters[i].value, this.#device, expAvg.shape)
    }
    checkParameters(parameters)

    const placement = Placement.of(this.#device, stream, () => [
      ...parameters.flatMap(({ value, grad }) => [value, grad]),
      ...[...moments.values()].flatMap(({ expAvg, expAvgSq }) => [expAvg, expAvgSq]),
      this.#norm,
    ])
    if (this.#settings.maxNorm !== null) this.#norm ??= newOperand('norm', 'float32', [1], placement)
    const step = this.#step + 1
    runAdamW({ parameters, moments, settings: this.#settings, lrScale, step, norm: this.#norm, placement })
    this.#step = step
  }

  /**
   * A copy of the state, on the parameters' device, which later steps leave as it is. With it and the values an optimiser
   * made with the same options goes on to the bit where this one is now.
   */
  state(): AdamWState {
    const parameters = [...this.#open()].map(([name, { expAvg, expAvgSq }]) => {
      const [first, second] = [expAvg, expAvgSq].map((operand) => tensorOf(copyTo(this.#device, operand)))
      return [name, { expAvg: first, expAvgSq: second }] as const
    })
    return { step: this.#step, parameters: Object.fromEntries(parameters) }
  }

  /**
   * Takes a copy of a state, whose tensors may also be on the host.
   *
   * @throws LilyError; a refused state has changed nothing
   */
  load(state: AdamWState<TensorLike>): void {
    const moments = this.#open()
    refuseInCapture("an optimiser's state", 'load it before')
    checkKeys('state', state, STATE)
    const step = get('state', state, 'step')
    if (!Number.isSafeInteger(step) || (step as number) < 0) {
      fail('ERR_LILY_ARGUMENT', 'state.step', `expected an integer from 0, got ${describe(step)}`)
    }
    const given = get('state', state, 'parameters')
    if (typeof given !== 'object' || given === null) {
      fail('ERR_LILY_ARGUMENT', 'state.parameters', `expected an object, got ${describe(given)}`)
    }
    checkNames([...moments.keys()], Object.keys(given))
    const loaded = [...moments].map(([name, { expAvg }]) => ({
      name,
      own: expAvg,
      moments: readMoments(name, get('state.parameters', given, name)),
    }))
    for (const { name, own, moments } of loaded) checkMoments(name, moments, own)
    const copies = loaded.map(({ name, moments: { expAvg, expAvgSq } }): [string, Moments] => [
      name,
      { expAvg: copyTo(this.#device, expAvg), expAvgSq: copyTo(this.#device, expAvgSq) },
    ])
    this.#moments = new Map(copies)
    for (const old of moments.values()) disposeMoments(old)
    this.#step = step as number
  }

  /** Lets go of the state, not of the parameters. */
  dispose(): void {
    for (const moments of this.#moments?.values() ?? []) disposeMoments(moments)
    this.#moments = null
    this.#norm?.dispose()
    this.#norm = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  #open(): Map<string, Moments> {
    if (this.#moments !== null) return this.#moments
    throw new LilyError('ERR_LILY_DISPOSED', 'this optimiser has been disposed of; use it before dispose()')
  }
}
