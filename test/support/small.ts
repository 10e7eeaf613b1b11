import type { Tensor } from '../../lib/index.js'
import { type Float, pack, type Types, unpack } from './dtypes.js'
import { gaussian, randomFrom } from './random.js'

/** A small problem as plain operands, for tests of the interface, not of the numbers. */
export const sizes = { tokens: 6, dIn: 5, dOut: 4, rank: 3, experts: 2 }

export interface HostTensor {
  data: Float32Array
  shape: number[]
}

export interface SmallOperands {
  x: HostTensor
  a: HostTensor
  router: HostTensor
  b: HostTensor
  dy: HostTensor
}

/** Returns new memory at every call, always with the same numbers. */
export function smallOperands(): SmallOperands {
  const { tokens, dIn, dOut, rank, experts } = sizes
  const random = randomFrom(1)
  const matrix = (...shape: number[]) => ({ data: gaussian(random, count(shape)), shape })
  return {
    x: matrix(tokens, dIn),
    a: matrix(rank, dIn),
    router: matrix(experts, rank),
    b: matrix(experts, rank, dOut),
    dy: matrix(tokens, dOut),
  }
}

/** b of LoRA, [d_out, r]. */
export function smallLoraB(): HostTensor {
  const shape = [sizes.dOut, sizes.rank]
  return { data: gaussian(randomFrom(2), count(shape)), shape }
}

export function filled(value: number, ...shape: number[]): HostTensor {
  return { data: new Float32Array(count(shape)).fill(value), shape }
}

export interface TypedTensor {
  data: Float32Array | Uint16Array
  shape: number[]
  dtype: Float
}

/** The tensor rounded to a type. */
export function typed({ data, shape }: HostTensor, dtype: Float = 'float32'): TypedTensor {
  return { data: pack(dtype, data), shape, dtype }
}

/** The small operands in the types of a problem. */
export function typedOperands({
  activations,
  parameters = activations,
}: Types): Record<keyof SmallOperands, TypedTensor> {
  const { x, a, router, b, dy } = smallOperands()
  return {
    x: typed(x, activations),
    a: typed(a, parameters),
    router: typed(router, parameters),
    b: typed(b, parameters),
    dy: typed(dy, activations),
  }
}

/** The numbers of a tensor or an operand. float32 numbers are not copied. */
export function numbers(tensor: Pick<Tensor, 'dtype' | 'data'> | undefined): Float32Array {
  if (tensor?.data instanceof Float32Array) return tensor.data
  if (tensor?.data instanceof Uint16Array) return unpack(tensor.dtype, tensor.data)
  throw new Error('expected a tensor of numbers')
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}
