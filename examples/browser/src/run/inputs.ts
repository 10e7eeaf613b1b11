/** Inputs for a model whose tokenizer the page does not have. */
import { normal } from '../inspect/random-inputs.js'

/** In the one sequence. */
const TOKENS = 16

/** An input of a model. */
export interface Input {
  readonly name: string
  readonly type: string
  /** Sizes that are not fixed have names. */
  readonly shape: readonly (number | string)[]
}

/** The class Tensor of ONNX Runtime. */
type TensorClass<T> = new (type: string, data: Float32Array | readonly number[], dims: readonly number[]) => T

/** Made-up tokens without padding, and nothing before them; inputs that are no tokens are standard normal. */
export function madeUpInputs<T>(inputs: readonly Input[], Class: TensorClass<T>): Record<string, T> {
  return Object.fromEntries(
    inputs.map(({ name, type, shape }) => {
      const dims = shape.map(sizeOf)
      const length = dims.reduce((product, size) => product * size, 1)
      const numbers = type.startsWith('float')
        ? normal(length)
        : Array.from({ length }, (_, i) => integerOf(name, i % TOKENS))
      return [name, new Class(type, type === 'float32' ? numbers : Array.from(numbers), dims)]
    }),
  )
}

/** Exporters name the sizes so. */
function sizeOf(size: number | string): number {
  if (typeof size === 'number') return size
  if (size.includes('batch')) return 1
  // Not that of the mask, 'past_sequence_length + sequence_length'.
  return /^past\w*$/.test(size) ? 0 : TOKENS
}

function integerOf(name: string, token: number): number {
  if (name.includes('mask')) return 1
  if (name.includes('position')) return token
  return name === 'input_ids' ? 1 + ((7 * token) % 31) : 0
}
