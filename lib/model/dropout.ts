/** Dropout of a model's layers: the rate of its configuration, whether the model trains, and the state of the random numbers. */
import type { HostData } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { CPU, type Device } from '../memory/device.js'
import { checkRate, type Dropout, dropoutState, readDropout } from '../operations/dropout.js'
import { type Tensor, tensor } from '../tensor/tensor.js'

/** The dropout that all layers of a model share (docs/math.md#dropout). Each call of a layer draws a mask of its own. */
export class ModelDropout {
  #state: Tensor

  constructor(
    /** Probability with which an element of x counts as zero. */
    readonly rate: number,
    seed: number,
    /** Whether the model trains. */
    public isTraining: boolean,
  ) {
    this.#state = tensor(dropoutState(seed), [4], 'int32')
  }

  /** int32 `[4]`: seed and position of the next draw. */
  get state(): Tensor {
    return this.#state
  }

  /** The dropout of a call; null: none. Without a backward a call drops nothing. */
  of({ save }: { readonly save: boolean }): Dropout | null {
    return save && this.isActive ? readDropout({ rate: this.rate, state: this.#state }) : null
  }

  /** Whether calls that save for backward drop elements. */
  get isActive(): boolean {
    return this.isTraining && this.rate > 0
  }

  /** The state as it is now, whatever later calls draw. */
  copyState(): Promise<HostData> {
    const state = this.#state
    const words = state.device === CPU ? Promise.resolve(state.data.slice()) : state.toHost().then(({ data }) => data)
    // The code that follows may throw; then the promise is not awaited, and its rejection would end the process.
    words.catch(() => undefined)
    return words
  }

  /** Goes on from a state that was saved. On the host the tensor stays the same. */
  restore(words: Int32Array): void {
    if (this.#state.device === CPU) this.#state.data.set(words)
    else this.replaceBy({ from: this.#state, state: this.onDevice(this.#state.device, tensor(words, [4], 'int32')) })
  }

  /** A copy of the state for a device. CUDA has it in device memory, so that each replay of a captured graph draws anew. */
  onDevice(device: Device, state = this.#state): Tensor {
    return this.rate > 0 && device.type === 'cuda' ? state.to(device) : state
  }

  /** Replaces the state by a copy. One that was replaced since it was copied stays as it is. */
  replaceBy({ from, state }: MovedState): void {
    if (this.#state !== from || state === from) return
    this.dispose()
    this.#state = state
  }

  dispose(): void {
    this.#state.dispose()
  }
}

/** A copy of a state on another device. */
export interface MovedState {
  /** The state that was copied. */
  readonly from: Tensor
  readonly state: Tensor
}

/** Checks a rate of dropout in a configuration; undefined gives 0. */
export function readRate(argument: string, value: unknown): number {
  return value === undefined ? 0 : checkRate(argument, value)
}

/** Reads a seed; undefined gives a random one. */
export function readSeed(value: unknown): number {
  if (value === undefined) return Math.floor(Math.random() * 2 ** 32)
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 32) return value as number
  return fail('ERR_LILY_ARGUMENT', 'seed', `expected an integer from 0 to 2^32 - 1, got ${describe(value)}`)
}
