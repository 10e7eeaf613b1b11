/** A parameter of a model and its gradient. */
import { LilyError } from '../base/errors.js'
import { newOperand } from '../memory/allocate.js'
import { Capture } from '../memory/capture.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import type { DeferredB } from '../operations/deferred-b.js'
import type { ExpertStack } from '../operations/launch.js'
import { Output } from '../operations/output.js'
import { runFold } from '../operations/run.js'
import { operandOf, type Tensor, tensorOf } from '../tensor/tensor.js'
import { clear, placementOn } from '../tensor/transfer.js'
import type { SharedParameter } from './sharing.js'

/** A value and its gradient; null: nothing has asked for one yet. */
interface Tensors {
  readonly value: Tensor
  readonly grad: Tensor | null
}

/**
 * A parameter that one layer or several use, and its gradient, which adds up over layers and calls until `zeroGrad`. What
 * the properties give is the model's own memory: write to it, but do not dispose of it. Moving the model replaces the
 * tensors, so take them from here at each step.
 */
export class Parameter {
  #value: Tensor | null
  #gradient: Tensor | null = null
  #deferred: DeferredB[] = []

  /** @internal */
  constructor(
    private readonly shared: SharedParameter,
    value: Tensor,
    /** Of b; null for the others. */
    private readonly stack: ExpertStack | null,
  ) {
    this.#value = value
  }

  get name(): string {
    return this.shared.name
  }

  /** Which of the layer's operands it is. */
  get kind(): SharedParameter['kind'] {
    return this.shared.kind
  }

  /** Names of the layers that use it. */
  get layers(): readonly string[] {
    return this.shared.layers
  }

  /** a [r, d_in], router [E, r], b [E*r, d_out]. */
  get value(): Tensor {
    if (this.#value !== null) return this.#value
    throw new LilyError('ERR_LILY_DISPOSED', `${this.name}: its model has been disposed of; use it before dispose()`)
  }

  /**
   * The shape of value, float32 whatever the type of value. Zero before the first backward; complete whenever it is
   * read: deferred gradients of b are folded first.
   */
  get grad(): Tensor {
    this.fold()
    return this.accumulator
  }

  /** @internal The gradient without what is deferred. */
  get accumulator(): Tensor {
    // In a record it would be made zero by every replay.
    return (this.#gradient ??= Capture.outside(() => zerosLike(this.value)))
  }

  /** @internal Leaves a layer's gradient of b to the next fold. */
  defer(deferred: readonly DeferredB[]): void {
    this.#deferred.push(...deferred)
    // Bounds what waits to four times the gradient's memory; a fold's reading and writing of the gradient is little then.
    const partials = this.#deferred.reduce((sum, { partials }) => sum + partials, 0)
    if (this.stack !== null && partials >= 4 * this.stack.experts) this.fold()
  }

  /** @internal */
  fold(): void {
    const { stack } = this
    const deferred = this.#deferred
    if (stack === null || deferred.length === 0) return
    const output = Output.of('grad', this.accumulator) as Output
    // It is done once: what waits for it is of calls that have run.
    Capture.outside(() => {
      const placement = Placement.of(output.operand.device, null, () => [
        output.operand,
        ...deferred.flatMap(({ located }) => located),
      ])
      runFold(stack, deferred, output, placement)
    })
    this.#dropDeferred()
  }

  /** @internal */
  zeroGrad(): void {
    this.#dropDeferred()
    // What a record makes zero is what there is when it is replayed.
    if (this.#gradient !== null || Capture.current !== null) clear(operandOf(this.accumulator) as Operand)
  }

  /** @internal */
  async onHost(): Promise<Tensors> {
    const { value, grad } = this.#tensors()
    return { value: await value.toHost(), grad: (await grad?.toHost()) ?? null }
  }

  /** @internal */
  onDevice(device: Parameters<Tensor['to']>[0]): Tensors {
    const { value, grad } = this.#tensors()
    return { value: value.to(device), grad: grad?.to(device) ?? null }
  }

  /** @internal Takes what onHost or onDevice made. */
  moveTo({ value, grad }: Tensors): void {
    if (value === this.#value) return
    this.dispose()
    this.#value = value
    this.#gradient = grad
  }

  #tensors(): Tensors {
    this.fold()
    return { value: this.value, grad: this.#gradient }
  }

  /** @internal */
  dispose(): void {
    this.#dropDeferred()
    this.#gradient?.dispose()
    this.#gradient = null
    this.#value?.dispose()
    this.#value = null
  }

  #dropDeferred(): void {
    for (const deferred of this.#deferred) deferred.dispose()
    this.#deferred = []
  }
}

function zerosLike(value: Tensor): Tensor {
  const operand = operandOf(value) as Operand
  const placement = operand.device === CPU ? null : placementOn(operand.device, operand)
  const zeros = newOperand('grad', 'float32', value.shape, placement)
  clear(zeros)
  return tensorOf(zeros)
}
