/** Measures where the time of training goes. */
import * as tf from '@tensorflow/tfjs'

export const PARTS = [
  'frozen layers, forward',
  'frozen layers, backward',
  'adapter, forward',
  'adapter, backward',
  'optimiser',
  'TensorFlow.js',
] as const
export type Part = (typeof PARTS)[number]

/** A clock of which one part runs at a time. */
export class Clock {
  readonly seconds = Object.fromEntries(PARTS.map((part) => [part, 0])) as Record<Part, number>
  #part: Part | null = null
  #since = 0

  /** Ends the part that runs and begins another; null stops the clock. */
  begin(part: Part | null): void {
    const now = performance.now()
    if (this.#part !== null) this.seconds[this.#part] += (now - this.#since) / 1000
    this.#part = part
    this.#since = now
  }

  /** Computes f(x), a function of tensors, whose forward and backward pass become parts of the time. */
  measure<X extends tf.Tensor, Y extends tf.Tensor>(name: 'frozen layers' | 'adapter', f: (x: X) => Y, x: X): Y {
    const input = this.#marked(x, `${name}, forward`, 'TensorFlow.js')
    return this.#marked(f(input), 'TensorFlow.js', `${name}, backward`)
  }

  /** The same tensor, computed by an operation at which other parts begin. */
  #marked<T extends tf.Tensor>(x: T, onForward: Part, onBackward: Part): T {
    if (this.#part === null) return x
    const mark = tf.customGrad((input) => {
      this.begin(onForward)
      const gradFunc = (dy: tf.Tensor) => {
        this.begin(onBackward)
        return dy.clone()
      }
      return { value: (input as tf.Tensor).clone(), gradFunc }
    })
    return mark(x) as T
  }
}
