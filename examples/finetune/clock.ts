/** Measures where the time of training goes. */
import * as tf from '@tensorflow/tfjs'

/** A clock of which one part runs at a time. It stands until one begins. */
export class Clock<Part extends string> {
  readonly seconds: Record<Part, number>
  #part: Part | null = null
  #since = 0

  /** @param rest the part that runs outside of the functions that are measured */
  constructor(
    parts: readonly Part[],
    readonly rest: Part,
  ) {
    this.seconds = Object.fromEntries(parts.map((part) => [part, 0])) as Record<Part, number>
  }

  /** The part that runs; null: the clock stands. */
  get part(): Part | null {
    return this.#part
  }

  /** Ends the part that runs and begins another; null stops the clock. */
  begin(part: Part | null): void {
    const now = performance.now()
    if (this.#part !== null) this.seconds[this.#part] += (now - this.#since) / 1000
    this.#part = part
    this.#since = now
  }

  /** Computes f(...inputs), a function of tensors, whose forward and backward pass become parts of the time. */
  measure<X extends tf.Tensor, Y extends tf.Tensor>(
    [forward, backward]: readonly [Part, Part],
    f: (...inputs: X[]) => Y,
    ...inputs: X[]
  ): Y {
    if (this.#part === null) return f(...inputs)
    const marked = inputs.map((x) => this.#marked(x, forward, this.rest))
    return this.#marked(f(...marked), this.rest, backward)
  }

  /** The same tensor, computed by an operation at which other parts begin. A reshape copies nothing. */
  #marked<T extends tf.Tensor>(x: T, onForward: Part, onBackward: Part): T {
    const mark = tf.customGrad((input) => {
      this.begin(onForward)
      const gradFunc = (dy: tf.Tensor) => {
        this.begin(onBackward)
        return tf.reshape(dy, dy.shape)
      }
      return { value: tf.reshape(input as tf.Tensor, x.shape), gradFunc }
    })
    return mark(x) as T
  }
}
