/** The tensors of a benchmarked call, in host memory: inputs, and every output to add to. */
import { tensor, type DType, type Tensor } from '../lib/index.js'
import type { DTypes, Shape } from './shapes.js'

/** Deterministic numbers in [-scale, scale): the speed of a kernel must not depend on luck with denormals. */
export function filled(shape: readonly number[], scale: number, dtype: DType = 'float32'): Tensor {
  const data = new Float32Array(count(shape))
  let state = 1
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    data[i] = scale * (state / 2 ** 31 - 1)
  }
  if (dtype === 'float32') return tensor(data, shape)
  return tensor(
    Uint16Array.from(new Uint32Array(data.buffer), dtype === 'bfloat16' ? upperHalf : float16),
    shape,
    dtype,
  )
}

/** A float32's bits to those of a bfloat16, and of a float16: cut off, with zero for what is too small. */
const upperHalf = (bits: number): number => bits >>> 16
function float16(bits: number): number {
  const magnitude = (bits & 0x7fffffff) - (112 << 23)
  return magnitude < 1 << 23 ? 0 : ((bits >>> 16) & 0x8000) | (magnitude >>> 13)
}

export function zeros(shape: readonly number[], dtype: DType = 'float32'): Tensor {
  return tensor(dtype === 'float32' ? new Float32Array(count(shape)) : new Uint16Array(count(shape)), shape, dtype)
}

const count = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

export type Operands = ReturnType<typeof makeOperands>

/** Of Lily and, with `loraB` and `loraDb`, of LoRA of the same rank on the same activations. */
export function makeOperands({ tokens, d, rank, experts }: Shape, { activations, parameters }: DTypes) {
  return {
    x: filled([tokens, d], 1, activations),
    dy: filled([tokens, d], 1e-3, activations),
    y: zeros([tokens, d], activations),
    dx: zeros([tokens, d], activations),
    a: filled([rank, d], d ** -0.5, parameters),
    da: zeros([rank, d], parameters),
    router: filled([experts, rank], rank ** -0.5, parameters),
    dRouter: zeros([experts, rank], parameters),
    b: filled([experts, rank, d], 1e-3, parameters),
    db: zeros([experts, rank, d], parameters),
    loraB: filled([d, rank], 1e-3, parameters),
    loraDb: zeros([d, rank], parameters),
  }
}
