/** An optimiser for adapters and variables of TensorFlow.js. */
import { type NamedTensorMap, Optimizer, type Scalar, type Tensor, type Variable } from '@tensorflow/tfjs-core'
import { describe, fail } from '../base/errors.js'
import { checkKeys, elementsOf, entriesOf, type Known } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { inspectSymbol } from '../base/symbols.js'
import type { AdapterModel } from '../model/adapter-model.js'
import { AdamW, type AdamWStepOptions } from '../optimiser/adamw.js'
import type { AverageOptions, Distributed, Stepped } from '../optimiser/distributed.js'
import { ADAMW_OPTIONS, type AdamWOptions } from '../optimiser/options.js'
import type { TrainableParameter } from '../optimiser/parameters.js'
import { currentGpuPlace } from './gpu-memory.js'
import { checkFloat32, hostPlace } from './memory.js'
import { placeOn, type VariableParameter } from './place.js'
import { type AdapterModels, readModels, readVariables, variableGrads } from './variable-grads.js'

/** The gradient of a variable. */
interface NamedTensor {
  name: string
  tensor: Tensor
}

/** Options of {@link AdapterOptimizer}: the options of AdamW, and how variables are treated. */
export interface AdapterOptimizerOptions<D extends Distributed | undefined = undefined> extends AdamWOptions<D> {
  /**
   * Variables that AdamW updates together with the adapter, under their names, which the groups also match. `maxNorm`
   * limits the norm of all gradients together. They must be float32. With `distributed` their gradients are averaged as the
   * adapter's are, and all ranks create them with equal values. Default: none.
   */
  readonly variables?: readonly Variable[] | undefined
  /**
   * Updates all other variables, such as `tf.train.sgd(0.1)`. It is an error with `distributed`, which does not average their
   * gradients. Default: none may have a gradient.
   */
  readonly optimizer?: Optimizer | undefined
}

const OPTIONS: Known = new Set([...ADAMW_OPTIONS, 'variables', 'optimizer'])

/**
 * Updates the parameters of adapters with AdamW, and variables with the same AdamW or with an optimiser of TensorFlow.js.
 * `minimize` works as in TensorFlow.js, and so do `compile` and `fit` of a LayersModel with this optimiser.
 *
 * A step uses up the gradients of the adapter: they are zero afterwards.
 *
 * With `distributed` a step averages the gradients of all ranks first: call computeGradients, and await applyGradients in place of
 * minimize.
 *
 * @typeParam D the type of the option `distributed`
 * @example
 * const optimizer = new AdapterOptimizer(model, { lr: 1e-3, optimizer: tf.train.sgd(0.1) })
 * const loss = optimizer.minimize(() => lossOf(adaptedLinear(x, kernel, layer)), true)
 */
export class AdapterOptimizer<D extends Distributed | undefined = undefined> extends Optimizer {
  /** Name of the class in TensorFlow.js. */
  static readonly className = 'AdapterOptimizer'

  /** The optimiser of the adapter and of `variables`: `state()` and `load()` save it, `gradNorm` is its last norm. */
  readonly adamw: AdamW<D>
  /** Factor on the learning rate of AdamW in the following steps, for schedules. */
  lrScale = 1
  /** With `distributed`: the share of this rank in the following steps, as in `AdamW.step`. */
  weight: AverageOptions['weight'] = undefined
  readonly #isDistributed: boolean
  /** Whether a step waits for the gradients of other ranks. */
  #isPending = false
  readonly #models: readonly AdapterModel[]
  readonly #variables: ReadonlyMap<string, VariableParameter>
  readonly #optimizer: Optimizer | null

  /**
   * Creates an optimiser with zero moments.
   *
   * @param model one adapter, or several, whose parameters then have the names '0.<name>', '1.<name>', ... They are in
   *   host memory, or on the GPUDevice of TensorFlow.js' webgpu backend
   * @throws LilyError as AdamW; ERR_LILY_DEVICE if TensorFlow.js has the variables on another device than the model
   */
  constructor(model: AdapterModels, options: AdapterOptimizerOptions<D> = {}) {
    super()
    const { variables, optimizer, ...adamw } = readOptions<D>(options)
    this.#models = readModels(model)
    this.#optimizer = readOptimizer(optimizer)
    this.#isDistributed = adamw.distributed !== undefined
    if (this.#isDistributed && this.#optimizer !== null) failNotAveraged()
    this.#variables = parametersOf(variables, this.#models)
    this.adamw = new AdamW(allParameters(this.#models, this.#variables), adamw)
  }

  /** @internal As in {@link AdamW}. */
  set lr(_: never) {
    fail('ERR_LILY_ARGUMENT', 'lr', 'cannot be set; set lrScale to the factor of a schedule')
  }

  /**
   * {@link variableGrads} for the models of this optimiser.
   *
   * @param f returns the loss, a scalar
   * @param varList default: `variables`, or all trainable variables if there is another `optimizer`
   * @throws LilyError as variableGrads
   */
  override computeGradients(
    f: () => Tensor,
    varList: Variable[] | undefined = this.#trained(),
  ): { value: Scalar; grads: NamedTensorMap } {
    return variableGrads(f, this.#models, varList)
  }

  /**
   * A training step: computeGradients, then applyGradients. Not supported with `distributed`: TensorFlow.js disposes of the
   * gradients before other ranks have sent theirs.
   *
   * @param f returns the loss, a scalar
   * @param returnCost true returns the loss instead of disposing of it
   * @param varList as in computeGradients
   * @returns the loss, a scalar
   * @throws LilyError ERR_LILY_ARGUMENT with `distributed`; as computeGradients and applyGradients
   */
  override minimize(f: () => Tensor, returnCost: true, varList?: Variable[]): Scalar
  /**
   * A training step that disposes of the loss.
   *
   * @param f returns the loss, a scalar
   * @returns null
   * @throws LilyError ERR_LILY_ARGUMENT with `distributed`; as computeGradients and applyGradients
   */
  override minimize(f: () => Tensor, returnCost?: boolean, varList?: Variable[]): Scalar | null
  override minimize(f: () => Tensor, returnCost?: boolean, varList?: Variable[]): Scalar | null {
    // computeGradients checks that the loss is a scalar.
    if (!this.#isDistributed) return super.minimize(f as () => Scalar, returnCost, varList)
    return fail(
      'ERR_LILY_ARGUMENT',
      'minimize()',
      'does not wait for other ranks; call computeGradients(f), then await applyGradients(grads)',
    )
  }

  /**
   * Updates the adapter from the gradients in `model.parameters()`, and variables from those given. Then it sets the
   * gradients of the adapter to zero.
   *
   * @param variableGradients by variable name, or a list. One that is undefined is ignored, as in TensorFlow.js
   * @returns with `distributed` a promise of the step; the gradients given may be disposed of at once
   * @throws LilyError ERR_LILY_ARGUMENT if one of `variables` has no gradient, or another variable has one and there is no
   *   `optimizer` for it; as `AdamW.step`: nothing has been written. With `distributed` it rejects
   */
  // eslint-disable-next-line @typescript-eslint/no-misused-promises -- what TensorFlow.js calls it from is refused
  override applyGradients(variableGradients: NamedTensorMap | NamedTensor[]): Stepped<D> {
    let waiting: Promise<void> | undefined
    if (this.#isDistributed) waiting = this.#applyTogether(variableGradients)
    else this.#applyAlone(variableGradients)
    return waiting as Stepped<D>
  }

  #applyAlone(variableGradients: NamedTensorMap | NamedTensor[]): void {
    const { own, others } = this.#readGradients(variableGradients)
    let isDone = false
    try {
      this.#begin(own)
      void this.adamw.step(this.#stepOptions())
      isDone = true
    } finally {
      this.#end(isDone)
    }
    if (others.length > 0) this.#optimizer?.applyGradients(others)
    this.#finish()
  }

  async #applyTogether(variableGradients: NamedTensorMap | NamedTensor[]): Promise<void> {
    // Before the gradients of the step that waits are replaced.
    if (this.#isPending) {
      fail(
        'ERR_LILY_ARGUMENT',
        'applyGradients()',
        'expected no step that waits for other ranks, got one; await the promise of applyGradients()',
      )
    }
    const { own } = this.#readGradients(variableGradients)
    let isDone = false
    this.#isPending = true
    try {
      this.#begin(own)
      await this.adamw.step(this.#stepOptions())
      isDone = true
    } finally {
      this.#isPending = false
      this.#end(isDone)
    }
    this.#finish()
  }

  #stepOptions(): AdamWStepOptions {
    return { lrScale: this.lrScale, weight: this.weight }
  }

  #readGradients(variableGradients: unknown): { own: Map<string, Tensor>; others: NamedTensor[] } {
    const others: NamedTensor[] = []
    const own = new Map<string, Tensor>()
    for (const { name, tensor } of listOf(variableGradients)) {
      if (this.#variables.has(name)) own.set(name, tensor)
      else others.push({ name, tensor })
    }
    if (others.length > 0 && this.#optimizer === null) failUnknown(others[0].name)
    for (const [name, { variable }] of this.#variables) checkGradient(variable, own.get(name) ?? failWithout(name))
    return { own, others }
  }

  #begin(own: ReadonlyMap<string, Tensor>): void {
    for (const [name, parameter] of this.#variables) parameter.begin(own.get(name) as Tensor)
  }

  #end(isDone: boolean): void {
    for (const parameter of this.#variables.values()) parameter.end(isDone)
  }

  #finish(): void {
    for (const model of this.#models) model.zeroGrad()
    this.incrementIterations()
  }

  /**
   * Not supported, so that `model.save` with `includeOptimizer` is an error instead of losing the state.
   *
   * @throws LilyError ERR_LILY_ARGUMENT
   */
  override getConfig(): never {
    fail(
      'ERR_LILY_ARGUMENT',
      'includeOptimizer',
      'AdapterOptimizer is not saved with a model of TensorFlow.js; save its state with the adapter: ' +
        'savePretrained(folder, { optimiser: optimizer.adamw })',
    )
  }

  /** Releases the state of AdamW. An `optimizer` that was given is not disposed of. Throws nothing. */
  override dispose(): void {
    this.adamw.dispose()
  }

  [inspectSymbol](): string {
    return `AdapterOptimizer { ${this.adamw.summary()} }`
  }

  #trained(): Variable[] | undefined {
    return this.#optimizer === null ? Array.from(this.#variables.values(), ({ variable }) => variable) : undefined
  }
}

/** Reads each option once, also one that is inherited. */
function readOptions<D extends Distributed | undefined>(options: unknown): AdapterOptimizerOptions<D> {
  checkKeys('options', options, OPTIONS)
  return Object.fromEntries(Array.from(OPTIONS, (name) => [name, options[name]]))
}

function readOptimizer(optimizer: unknown): Optimizer | null {
  if (optimizer === undefined) return null
  // TensorFlow.js decides instanceof by methods, which null does not have.
  if (optimizer !== null && optimizer instanceof Optimizer) return optimizer
  return fail(
    'ERR_LILY_ARGUMENT',
    'optimizer',
    `expected an optimiser such as tf.train.sgd(0.1), got ${describe(optimizer)}`,
  )
}

function checkGradient({ name, shape }: Variable, gradient: Tensor): void {
  checkFloat32(`gradient of '${name}'`, gradient)
  if (gradient.shape.join() === shape.join()) return
  fail('ERR_LILY_SHAPE', `gradient of '${name}'`, `expected ${shapeText(shape)}, got ${shapeText(gradient.shape)}`)
}

function parametersOf(variables: unknown, models: readonly AdapterModel[]): Map<string, VariableParameter> {
  const parameters = new Map<string, VariableParameter>()
  for (const [i, variable] of (variables === undefined ? [] : readVariables(variables)).entries()) {
    checkFloat32(`variables[${i}]`, variable)
    const place = models.length > 0 ? placeOn('model', models[0].device) : (currentGpuPlace('variables') ?? hostPlace)
    parameters.set(variable.name, place.variable(variable))
  }
  return parameters
}

function allParameters(
  models: readonly AdapterModel[],
  variables: ReadonlyMap<string, VariableParameter>,
): Map<string, TrainableParameter> {
  const all = new Map<string, TrainableParameter>()
  for (const [i, model] of models.entries()) {
    for (const [name, parameter] of model.parameters()) all.set(models.length === 1 ? name : `${i}.${name}`, parameter)
  }
  for (const [name, parameter] of variables) {
    if (all.has(name))
      fail('ERR_LILY_ARGUMENT', 'variables', `'${name}' is the name of a parameter; rename the variable`)
    all.set(name, parameter)
  }
  return all
}

function listOf(gradients: unknown): NamedTensor[] {
  const listed = elementsOf(gradients)
  const list =
    listed?.map(readNamed) ??
    entriesOf('variableGradients', gradients as NamedTensorMap).map(([name, tensor]) => ({ name, tensor }))
  return list.filter(({ tensor }) => (tensor as Tensor | null | undefined) != null)
}

function readNamed(entry: unknown, i: number): NamedTensor {
  const { name, tensor } = (entry ?? {}) as Partial<NamedTensor>
  if (typeof name === 'string') return { name, tensor: tensor as Tensor }
  return fail('ERR_LILY_ARGUMENT', `variableGradients[${i}]`, `expected { name, tensor }, got ${describe(entry)}`)
}

function failWithout(name: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'variables',
    `expected a gradient of each of them, got none of '${name}'; leave it out if the loss does not depend on it`,
  )
}

function failNotAveraged(): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'optimizer',
    'expected none with distributed, which does not average the gradients of its variables; pass them in variables',
  )
}

function failUnknown(name: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'variableGradients',
    `'${name}' is none of the variables of this optimiser; pass it in variables, or an optimizer for all others`,
  )
}
