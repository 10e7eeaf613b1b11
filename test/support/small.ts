import type { Tensor } from '../../lib/index.js'
import { gaussian, randomFrom } from './random.js'

/** A small problem as plain operands, for tests of the interface rather than of the numbers. */
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

/** Fresh memory at every call, always with the same numbers. */
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

/** [d_out, r], for LoRA. */
export function smallLoraB(): HostTensor {
  const shape = [sizes.dOut, sizes.rank]
  return { data: gaussian(randomFrom(2), count(shape)), shape }
}

export function filled(value: number, ...shape: number[]): HostTensor {
  return { data: new Float32Array(count(shape)).fill(value), shape }
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** The numbers of a float32 tensor. */
export function numbers(tensor: Tensor | undefined): Float32Array {
  if (tensor?.data instanceof Float32Array) return tensor.data
  throw new Error('expected a tensor of float32 numbers')
}
