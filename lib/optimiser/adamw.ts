/** The AdamW optimiser. */
import { countOf, describe, fail, LilyError } from '../base/errors.js'
import { type Known, readProperties } from '../base/options.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { type AdamWState, type Moments, readEntries, readMoments, stateOf } from '../checkpoint/optimiser-state.js'
import { newOperand } from '../memory/allocate.js'
import { Capture, refuseInCapture } from '../memory/capture.js'
import { refuseReadOnly } from '../memory/checks.js'
import { type Device, deviceText } from '../memory/device.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { Placement, type StreamOption } from '../memory/placement.js'
import { reportLater } from '../memory/reports.js'
import type { TensorLike } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Stream } from '../tensor/stream.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import { clear, copyToHost } from '../tensor/transfer.js'
import { type AverageOptions, type Distributed, readWeight, type Stepped } from './distributed.js'
import { runAdamW } from './launch.js'
import { checkMoments, checkNames, copyTo, disposeMoments, newMoments } from './moments.js'
import { type AdamWOptions, equalSettings, readLrScale, readSettings, type Settings } from './options.js'
import { stateRanges } from './overlap.js'
import {
  checkParameters,
  checkValue,
  failNotFinite,
  type ParameterOperands,
  readGradients,
  readNames,
  readParameters,
  readValue,
  type TrainableParameter,
} from './parameters.js'

/** Options of {@link AdamW.step}. */
export interface AdamWStepOptions {
  /** Factor on the learning rate of every group in this step, for learning rate schedules. Default 1. */
  readonly lrScale?: number | undefined
  /**
   * CUDA stream to run in, or its cudaStream_t. Default: the stream of the operands. Not accepted by the cpu backend.
   */
  readonly stream?: Stream | bigint | number | undefined
  /**
   * With `distributed`: the share of this rank, such as the number of kept tokens that its loss is a mean over; 'sum' adds the
   * gradients instead. Default 1: all ranks have equal shares.
   */
  readonly weight?: AverageOptions['weight']
}

const STEP_OPTIONS: Known = new Set<keyof AdamWStepOptions>(['lrScale', 'stream', 'weight'])

/** The options of a step, once they are read. */
interface StepSettings {
  readonly lrScale: number
  readonly stream: StreamOption
  readonly weight: number | 'sum'
}

/** The operands of a step, once they are checked. */
interface StepOperands {
  readonly parameters: readonly ParameterOperands[]
  readonly moments: ReadonlyMap<string, Moments>
  readonly placement: Placement | null
}

/**
 * Adam with decoupled weight decay (arXiv 1711.05101) with the semantics of torch.optim.AdamW, preceded by clipping of
 * the gradient norm as in torch.nn.utils.clip_grad_norm_. A step updates all parameters at once:
 *
 *     g     = grad min(1, maxNorm / (norm + 1e-6))             norm: of all gradients; without maxNorm: g = grad
 *     m     = beta1 m + (1 - beta1) g
 *     v     = beta2 v + (1 - beta2) g²
 *     value = (1 - lr weightDecay) value - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)       t: step, from 1
 *
 * Arithmetic and state (m, v) are float32. A 16-bit value is rounded once per step, to nearest even, and has no float32
 * copy: an update smaller than half the distance to the next representable number is lost, so keep parameters with
 * small learning rates in float32. Gradients are not modified; clipping scales them as they are read.
 *
 * A step whose gradients are not all finite updates nothing and is an error; see `onNonFinite`. With 'ignore' and clipping
 * finite gradients become 0 and infinite ones NaN if the norm is infinite, and all become NaN if it is NaN, as in PyTorch.
 *
 * A parameter whose gradient is zero is updated like any other, also by weight decay: PyTorch leaves it out if its gradient
 * is None. Pass only the parameters to train.
 *
 * Results are bit-identical from run to run, for any number of threads. On CUDA a step is only enqueued.
 *
 * With `distributed` a step first replaces the gradients by their average over all ranks, to which the formulas and
 * `onNonFinite` then apply: the values and the state of all ranks stay equal to the bit. Such a step returns a promise. Until it
 * resolves, the gradients must not be changed, and another `step()`, `load()` and `zeroGrad()` are errors.
 *
 * @typeParam D the type of the option `distributed`
 * @example
 * const optimiser = new AdamW(model.parameters(), { lr: 1e-3, maxNorm: 1, groups: [{ match: /lily_B/, lr: 1e-2 }] })
 * // forward, backward
 * optimiser.step()
 * optimiser.zeroGrad()
 */
export class AdamW<D extends Distributed | undefined = undefined> {
  readonly #parameters: ReadonlyMap<string, TrainableParameter>
  readonly #names: readonly string[]
  readonly #settings: Settings
  readonly #device: Device
  /** By parameter name; null once the optimiser is disposed of. */
  #moments: Map<string, Moments> | null
  /** Number of steps, with the skipped ones. */
  #step = 0
  #norm: Operand | null = null
  /** [1], float32: the number of skipped steps, where the steps run; null: none was to be counted yet. */
  #skipped: Operand | null = null
  #skippedSteps = 0
  /** Whether a step waits for the gradients of the other ranks. */
  #isPending = false

  /**
   * Creates an optimiser with zero moments.
   *
   * @param parameters by name. The map is kept, and `value` and `grad` of its entries are read in every step, so they
   *   may be getters. Names, shapes and device must not change.
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_OUT_OF_MEMORY
   */
  constructor(parameters: ReadonlyMap<string, TrainableParameter>, options: AdamWOptions<D> = {}) {
    const names = readNames(parameters)
    this.#parameters = parameters
    this.#names = names
    this.#settings = readSettings(options, names)
    const values = names.map((name) => readValue(parameters, name))
    this.#device = values[0].device
    for (const [i, name] of names.entries()) checkValue(name, values[i], this.#device, values[i].shape)
    // Inside a capture every replay of the graph would reset the moments to zero.
    this.#moments = Capture.outside(() => {
      const placement = Placement.of(this.#device, null, () => [])
      return new Map(names.map((name, i) => [name, newMoments(name, values[i].shape, placement)]))
    })
  }

  /** Number of steps done, since the count of the state that was loaded. Like `skippedSteps` for steps on a device. */
  get stepCount(): number {
    return this.#step - this.#skippedSteps
  }

  /**
   * Number of steps that have updated nothing because gradients were not finite, since the optimiser was created or has
   * loaded a state. Steps on a device are counted when a promise of the device resolves or rejects, for example
   * the promise of `toHost()`.
   */
  get skippedSteps(): number {
    return this.#skippedSteps
  }

  /**
   * @internal Schedulers of PyTorch set the rate of an optimiser. Without this an assignment would make a property that
   * nothing reads.
   */
  set lr(_: never) {
    fail('ERR_LILY_ARGUMENT', 'lr', 'cannot be set; pass the factor of a schedule to step({ lrScale })')
  }

  /**
   * Norm of all gradients in the last step, before clipping: [1], float32, on the parameters' device. The next step
   * overwrites it. Undefined without `maxNorm`, and before the first step.
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get gradNorm(): Tensor | undefined {
    this.#open()
    return this.#norm === null ? undefined : tensorOf(this.#norm.share())
  }

  /**
   * Updates all values from their gradients. A backward of a forward before it is an error.
   *
   * @returns with `distributed` a promise, which resolves when the gradients are averaged and the values updated, or, on a
   *   device, when the update is enqueued; otherwise nothing
   * @throws LilyError ERR_LILY_ARGUMENT, also for a gradient in host memory that is not finite, ERR_LILY_SHAPE,
   *   ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY: no value and no state has been written;
   *   ERR_LILY_CUDA. With `distributed` it rejects with these, and as `averageGradients` of lily-kernels/mpi, and on all ranks
   *   for gradients that are not finite
   */
  step(options: AdamWStepOptions = {}): Stepped<D> {
    const { distributed } = this.#settings
    let waiting: Promise<void> | undefined
    if (distributed === null) this.#stepAlone(options)
    else waiting = this.#stepTogether(distributed, options)
    return waiting as Stepped<D>
  }

  #stepAlone(options: AdamWStepOptions): void {
    const settings = this.#readStep(options)
    this.#update(settings, this.#readOperands(settings))
  }

  async #stepTogether(distributed: Distributed, options: AdamWStepOptions): Promise<void> {
    this.#refuseWhilePending('step()')
    const settings = this.#readStep(options)
    // Everything is checked before the other ranks get anything.
    this.#readOperands(settings)
    this.#isPending = true
    try {
      await distributed.averageGradients(this.#parameters, {
        weight: settings.weight,
        equal: equalSettings(this.#settings, this.#step, settings.lrScale),
      })
    } finally {
      this.#isPending = false
    }
    // Code of the caller has run since.
    this.#update(settings, this.#readOperands(settings))
  }

  #readStep(options: unknown): StepSettings {
    refuseInCapture("an optimiser's step()", 'its result depends on the number of the step: call it after replay()')
    return readProperties('options', options, STEP_OPTIONS, (given) => ({
      lrScale: readLrScale(given, this.#settings.rates),
      stream: readStream(given.stream, given.encoder),
      weight: this.#readWeight(given.weight),
    }))
  }

  #readWeight(weight: unknown): number | 'sum' {
    if (weight === undefined || this.#settings.distributed !== null) return readWeight(weight)
    return fail(
      'ERR_LILY_ARGUMENT',
      'weight',
      `expected none without other ranks, got ${describe(weight)}; leave it out, or pass AdamW the option distributed`,
    )
  }

  #readOperands({ stream }: StepSettings): StepOperands {
    const parameters = readParameters(this.#parameters, this.#names)
    const moments = this.#open()
    for (const { name, value } of parameters) {
      checkValue(name, value, this.#device, (moments.get(name) as Moments).expAvg.shape)
    }
    checkParameters(parameters, stateRanges(moments, this.#norm))
    const placement = Placement.of(this.#device, stream, () => [
      ...parameters.flatMap(({ value, grad }) => [value, grad]),
      ...[...moments.values()].flatMap(({ expAvg, expAvgSq }) => [expAvg, expAvgSq]),
      this.#norm,
      this.#skipped,
    ])
    return { parameters, moments, placement }
  }

  #update({ lrScale }: StepSettings, { parameters, moments, placement }: StepOperands): void {
    const hasNorm = this.#settings.maxNorm !== null
    const norm = hasNorm ? (this.#norm ?? newOperand('norm', 'float32', [1], placement)) : null
    const step = this.#step + 1
    let skipped = this.#skipped
    if (skipped === null && this.#settings.onNonFinite !== 'ignore') {
      skipped = newOperand('skipped', 'float32', [1], placement)
      clear(skipped)
    }
    runAdamW({ parameters, moments, settings: this.#settings, lrScale, step, norm, skipped, placement })
    this.#step = step
    this.#norm = norm
    this.#skipped = skipped
    if (skipped !== null && placement !== null) reportLater(this.#device, this.#report)
    if (skipped !== null && placement === null && this.#count(skipped)) {
      if (this.#settings.onNonFinite === 'error') failNotFinite(parameters)
      return
    }
    for (const { value } of parameters) value.version++
  }

  /** Refuses a call that a step would not expect while it waits for the other ranks. */
  #refuseWhilePending(call: string): void {
    if (!this.#isPending) return
    fail('ERR_LILY_ARGUMENT', call, 'expected no step that waits for other ranks, got one; await the promise of step()')
  }

  /** Takes over the number of skipped steps, in host memory. Returns whether it is larger than before. */
  #count({ memory }: Operand): boolean {
    const before = this.#skippedSteps
    this.#skippedSteps = (memory as Float32Array)[0]
    return this.#skippedSteps > before
  }

  /** Reads the number of skipped steps of a device, and rejects if there are new ones that are errors. */
  readonly #report = async (): Promise<void> => {
    const skipped = this.#skipped
    if (skipped === null) return
    const read = await copyToHost(skipped)
    const before = this.#skippedSteps
    if (skipped !== this.#skipped || !this.#count(read) || this.#settings.onNonFinite === 'skip') return
    fail(
      'ERR_LILY_ARGUMENT',
      'grad',
      `expected finite gradients with a norm of at most 1.8e19, got others in ` +
        `${countOf(this.#skippedSteps - before, 'step')} on ${deviceText(this.#device)}, which have updated nothing; look ` +
        "for the cause in the loss, or pass onNonFinite: 'skip'",
    )
  }

  /**
   * Sets the gradients of all parameters to zero, in place; on a device this is enqueued in the stream of each gradient.
   * The state does not change.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED: the
   *   checks of this package fail before anything is written; ERR_LILY_CUDA; what the caller's own `zeroGrad` methods
   *   throw. They run first, so the gradients that this call fills itself are unchanged then
   */
  zeroGrad(): void {
    this.#refuseWhilePending('zeroGrad()')
    const moments = this.#open()
    const { methods, others } = readGradients(this.#parameters, [...moments.keys()])
    for (const { name, value, grad } of others) {
      checkValue(name, value, this.#device, (moments.get(name) as Moments).expAvg.shape)
      if (grad.isReadOnly) refuseReadOnly(`${name}.grad`)
    }
    checkParameters(others, stateRanges(moments, this.#norm))
    for (const zeroGrad of methods) zeroGrad()
    // A method is code of the caller, which may have released or transferred the memory of another gradient.
    if (methods.length > 0) for (const { name, grad } of others) checkMemory(`${name}.grad`, grad)
    for (const { grad } of others) clear(grad)
  }

  /**
   * A copy of the state, on the parameters' device. A new optimiser with the same options, values and this state
   * continues bit-identically to this one. `savePretrained(folder, { optimiser })` saves it with an adapter, and
   * {@link saveState} to a file of its own.
   *
   * @throws LilyError ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
   */
  state(): AdamWState {
    const parameters = [...this.#open()].map(([name, { expAvg, expAvgSq }]) => {
      const [first, second] = [expAvg, expAvgSq].map((operand) => tensorOf(copyTo(this.#device, operand)))
      return [name, { expAvg: first, expAvgSq: second }] as const
    })
    return stateOf(this.stepCount, parameters)
  }

  /**
   * Restores a state by copying it. Its tensors may be on the parameters' device or on the host.
   *
   * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
   *   ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA: the old state is unchanged
   */
  load(state: AdamWState<TensorLike>): void {
    refuseInCapture("an optimiser's load()", 'call it before')
    this.#refuseWhilePending('load()')
    const { step, entries } = readEntries(state)
    checkNames(this.#names, [...entries.keys()])
    const loaded = this.#names.map((name) => ({ name, moments: readMoments(name, entries.get(name)) }))
    const old = this.#open()
    for (const { name, moments } of loaded) checkMoments(name, moments, (old.get(name) as Moments).expAvg)
    const copies = loaded.map(({ name, moments: { expAvg, expAvgSq } }): [string, Moments] => [
      name,
      { expAvg: copyTo(this.#device, expAvg), expAvgSq: copyTo(this.#device, expAvgSq) },
    ])
    this.#moments = new Map(copies)
    for (const moments of old.values()) disposeMoments(moments)
    this.#step = step
    this.#dropSkipped()
    this.#skippedSteps = 0
  }

  /** Releases the state. The parameters are not affected. A step that waits for other ranks rejects. Throws nothing. */
  dispose(): void {
    for (const moments of this.#moments?.values() ?? []) disposeMoments(moments)
    this.#moments = null
    this.#norm?.dispose()
    this.#norm = null
    this.#dropSkipped()
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    return `AdamW { ${this.summary()} }`
  }

  /** @internal Parameters, device and steps, in the console. */
  summary(): string {
    if (this.#moments === null) return 'disposed'
    const skipped = this.#skippedSteps === 0 ? '' : `, ${this.#skippedSteps} skipped`
    const steps = `${countOf(this.stepCount, 'step')}${skipped}`
    return `${countOf(this.#names.length, 'parameter')} on ${deviceText(this.#device)}, ${steps}`
  }

  #dropSkipped(): void {
    this.#skipped?.dispose()
    this.#skipped = null
  }

  #open(): Map<string, Moments> {
    if (this.#moments !== null) return this.#moments
    throw new LilyError('ERR_LILY_DISPOSED', 'this optimiser is disposed of; use it before dispose()')
  }
}
