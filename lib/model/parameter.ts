/** A parameter of an adapter and its gradient. */
import { countOf, LilyError } from '../base/errors.js'
import { quoted } from '../base/summary.js'
import { inspectSymbol } from '../base/symbols.js'
import { newOperand } from '../memory/allocate.js'
import { Capture } from '../memory/capture.js'
import { CPU, type Device, deviceText } from '../memory/device.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import type { DeferredB } from '../operations/deferred-b.js'
import type { StackSizes } from '../operations/call.js'
import { Output } from '../operations/output.js'
import { runFold } from '../operations/deferred-b.js'
import { resolve } from '../tensor/resolve.js'
import { operandOf, type Tensor, tensorOf } from '../tensor/tensor.js'
import { clear, placementOn } from '../tensor/transfer.js'
import type { ParameterShape } from './layout.js'

/** A copy of a value and its gradient on another device. */
interface Moved {
  /** The value that was copied. */
  readonly from: Tensor
  readonly value: Tensor
  /** Null until the gradient is first used. */
  readonly grad: Tensor | null
}

/**
 * A parameter that one or more layers use, and its gradient, which accumulates over layers and calls until `zeroGrad`.
 * `value` and `grad` are the model's memory: they may be written, but must not be disposed of. Moving the model
 * replaces both tensors, so read these properties again at each step.
 */
export class Parameter {
  #value: Tensor | null
  #gradient: Tensor | null = null
  #deferred: DeferredB[] = []

  /** @internal */
  constructor(
    private readonly shared: ParameterShape,
    value: Tensor,
    /** Sizes of a stack of experts, which has deferred gradients; null for other parameters. */
    private readonly stack: StackSizes | null,
  ) {
    this.#value = value
  }

  /** PEFT's name in the first layer that uses this parameter, such as 'layers.0.q_proj.lily_A.weight'. */
  get name(): string {
    return this.shared.name
  }

  /** The operand of its layers that this parameter is. LoRA has no router. */
  get kind(): ParameterShape['kind'] {
    return this.shared.kind
  }

  /** Names of the layers that use this parameter. */
  get layers(): readonly string[] {
    return this.shared.layers
  }

  /**
   * The value. Lily: a [r, d_in], router [E, r] ([E, 1], logits, with routing 'learned') or b [E*r, d_out]; LoRA: a [r, d_in]
   * or b [d_out, r].
   *
   * @throws LilyError ERR_LILY_DISPOSED
   */
  get value(): Tensor {
    if (this.#value !== null) return this.#value
    throw new LilyError('ERR_LILY_DISPOSED', `${this.name}: its model is disposed of; use it before dispose()`)
  }

  /**
   * The gradient: the shape of `value`, always float32. Zero before the first backward. Reading this property folds
   * deferred gradients of b first, so the gradient is always complete.
   *
   * @throws LilyError ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
   */
  get grad(): Tensor {
    this.fold()
    return this.accumulator
  }

  /** @internal The gradient without the deferred gradients. */
  get accumulator(): Tensor {
    // Inside a capture every replay of the graph would set the new gradient to zero.
    return (this.#gradient ??= Capture.outside(() => zerosLike(this.value)))
  }

  /** @internal Adds a layer's deferred gradients of b to the list for the next fold. */
  defer(deferred: readonly DeferredB[]): void {
    this.#deferred.push(...deferred)
    // Limits the deferred partials to four times the memory of the gradient. With so many, the fold's traffic for the
    // gradient itself is small.
    const partials = this.#deferred.reduce((sum, { partials }) => sum + partials, 0)
    if (this.stack !== null && partials >= 4 * this.stack.experts) this.fold()
  }

  /** @internal Adds all deferred gradients of b to the gradient. */
  fold(): void {
    const { stack } = this
    const deferred = this.#deferred
    if (stack === null || deferred.length === 0) return
    const output = Output.of(`${this.name}.grad`, this.accumulator) as Output
    // Outside a capture: the deferred gradients are from calls that have run, so the fold must run once, not at each
    // replay.
    Capture.outside(() => {
      const placement = Placement.of(output.operand.device, null, () => [
        output.operand,
        ...deferred.flatMap(({ located }) => located),
      ])
      runFold(stack, deferred, output, placement)
    })
    this.#dropDeferred()
  }

  /** @internal Checks that the value can be read: the caller may have disposed of it or transferred its memory. */
  checkValue(): void {
    checkUsable(`${this.name}.value`, this.value)
  }

  /** @internal Checks the gradient likewise. One that is not there yet is created if it `isNeeded`. */
  checkGrad(isNeeded = false): void {
    if (this.#gradient !== null || isNeeded) checkUsable(`${this.name}.grad`, this.accumulator)
  }

  /**
   * Sets the gradient to zero, in place, without folding deferred gradients first.
   *
   * @throws LilyError ERR_LILY_DISPOSED, or ERR_LILY_ARGUMENT if its memory was transferred: it is unchanged;
   *   ERR_LILY_CUDA
   */
  zeroGrad(): void {
    // Inside a capture the memory must exist now: the graph then contains the fill, and every replay zeroes the gradient.
    this.checkGrad(Capture.current !== null)
    this.#dropDeferred()
    if (this.#gradient !== null) clear(operandOf(this.#gradient) as Operand)
  }

  /** @internal Copies to the host. */
  async onHost(): Promise<Moved> {
    this.fold()
    const { value: from } = this
    // Both at once: another move may dispose of them meanwhile.
    const [value, grad] = await Promise.all([from.toHost(), this.#gradient?.toHost() ?? null])
    return { from, value, grad }
  }

  /** @internal Copies to a device. */
  onDevice(device: Device): Moved {
    this.fold()
    const { value: from } = this
    return { from, value: from.to(device), grad: this.#gradient?.to(device) ?? null }
  }

  /**
   * @internal Replaces the tensors by those that onHost or onDevice returned. A parameter that was disposed of or moved
   * since it was copied stays as it is: it may have been trained after that move.
   */
  replaceBy({ from, value, grad }: Moved): void {
    if (this.#value !== from || value === from) return
    this.dispose()
    this.#value = value
    this.#gradient = grad
  }

  /** @internal */
  dispose(): void {
    this.#dropDeferred()
    this.#gradient?.dispose()
    this.#gradient = null
    this.#value?.dispose()
    this.#value = null
  }

  [inspectSymbol](): string {
    const { name, layers } = this
    return `Parameter { ${quoted(name)} of ${countOf(layers.length, 'layer')}, ${this.#value?.summary() ?? 'disposed'} }`
  }

  /** @internal Number of elements of the value. */
  get size(): number {
    const [rows, columns] = this.shared.shape
    return rows * columns
  }

  /** @internal Type and device of the value, in the console. */
  placeText(): string {
    const operand = this.#value && operandOf(this.#value)
    return operand === null ? 'disposed' : `${operand.dtype} on ${deviceText(operand.device)}`
  }

  #dropDeferred(): void {
    for (const deferred of this.#deferred) deferred.dispose()
    this.#deferred = []
  }
}

function checkUsable(argument: string, tensor: Tensor): void {
  checkMemory(argument, resolve(argument, tensor))
}

function zerosLike(value: Tensor): Tensor {
  const operand = operandOf(value) as Operand
  const placement = operand.device === CPU ? null : placementOn(operand.device, operand)
  const zeros = newOperand('grad', 'float32', value.shape, placement)
  clear(zeros)
  return tensorOf(zeros)
}
