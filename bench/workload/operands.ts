/** Operands of a case, including preallocated outputs: every call accumulates into them. */
import { type Routing, tensor, type Tensor } from '../../lib/index.js'
import { allocateOnHost } from '../../lib/memory/allocate.js'
import { type DTypes, encode, type Float } from './dtypes.js'
import { PATTERN, patternNumbers } from './pattern.js'
import type { Shape } from './shapes.js'

/** Copies a tensor to the backend under test. */
export type Place = (tensor: Tensor) => Tensor

const product = (sizes: readonly number[]): number => sizes.reduce((all, size) => all * size, 1)

/**
 * Encoded numbers by scale and type. Runs with cold caches create hundreds of operand sets, and encoding is slower than
 * copying.
 */
const patterns = new Map<string, ReturnType<typeof encode>>()

function patternOf(scale: number, dtype: Float): ReturnType<typeof encode> {
  const key = `${scale} ${dtype}`
  const known = patterns.get(key)
  if (known !== undefined) return known
  const pattern = encode(patternNumbers(scale), dtype)
  patterns.set(key, pattern)
  return pattern
}

/**
 * Deterministic numbers in [-scale, scale). The scales below also keep products normal in float16, because denormals
 * would change the speed of a kernel.
 */
export function filled(shape: readonly number[], scale: number, dtype: Float = 'float32'): Tensor {
  const result = zeros(shape, dtype)
  const data = result.data as Float32Array | Uint16Array
  data.set(patternOf(scale, dtype).subarray(0, data.length))
  for (let begin = PATTERN; begin < data.length; begin += PATTERN) data.copyWithin(begin, 0, PATTERN)
  return result
}

/** In memory that the package allocates, as results are: on WebAssembly, calls do not copy it. */
export function zeros(shape: readonly number[], dtype: Float = 'float32'): Tensor {
  return tensor(allocateOnHost('operands', dtype, product(shape)).fill(0), shape, dtype)
}

export interface Activations {
  readonly x: Tensor
  readonly y: Tensor
  readonly dy: Tensor
  readonly dx: Tensor
}

export function makeActivations({ tokens, d }: Shape, { activations }: DTypes, place: Place): Activations {
  return {
    x: place(filled([tokens, d], 1, activations)),
    y: place(zeros([tokens, d], activations)),
    dy: place(filled([tokens, d], 0.1, activations)),
    dx: place(zeros([tokens, d], activations)),
  }
}

/** The weight of the frozen layer. It has the type of the activations, as in a model that is loaded in 16 bits. */
export function makeWeight({ d }: Pick<Shape, 'd'>, { activations }: DTypes, place: Place): Tensor {
  return place(filled([d, d], d ** -0.5, activations))
}

export interface LoraParameters {
  readonly a: Tensor
  readonly b: Tensor
  readonly da: Tensor
  readonly db: Tensor
}

export interface LilyParameters extends LoraParameters {
  readonly router: Tensor
  readonly dRouter: Tensor
}

/** The router of learned mixtures is their logits, [E, 1]. */
export function makeLilyParameters(
  { d, rank, experts }: Shape,
  dtype: Float,
  place: Place,
  routing: Routing = 'batch',
): LilyParameters {
  const columns = routing === 'learned' ? 1 : rank
  return {
    a: place(filled([rank, d], d ** -0.5, dtype)),
    router: place(filled([experts, columns], columns ** -0.5, dtype)),
    b: place(filled([experts, rank, d], 0.02, dtype)),
    da: place(zeros([rank, d], dtype)),
    dRouter: place(zeros([experts, columns], dtype)),
    db: place(zeros([experts, rank, d], dtype)),
  }
}

export function makeLoraParameters(d: number, rank: number, dtype: Float, place: Place): LoraParameters {
  return {
    a: place(filled([rank, d], d ** -0.5, dtype)),
    b: place(filled([d, rank], 0.02, dtype)),
    da: place(zeros([rank, d], dtype)),
    db: place(zeros([d, rank], dtype)),
  }
}
