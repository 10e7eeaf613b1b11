/**
 * The unfused baseline: the same adapter as separate steps, each with a result in memory and a separate backward, as
 * automatic differentiation would run them.
 *
 * This package computes the products, so the comparison isolates the effect of fusion. The API has no plain matrix
 * product: a step calls loraForward with an identity matrix as its second factor, which adds about r / d to the
 * arithmetic.
 */
import {
  lilyBackward,
  lilyForward,
  type LilySaved,
  loraBackward,
  loraForward,
  type LoraSaved,
  type Tensor,
  tensor,
} from '../../../lib/index.js'
import { decode, encode, type Float } from '../../workload/dtypes.js'
import { filled, zeros } from '../../workload/operands.js'

export function identity(size: number, dtype: Float): Tensor {
  const data = new Float32Array(size * size)
  for (let i = 0; i < size; i++) data[i * size + i] = 1
  return tensor(encode(data, dtype), [size, size], dtype)
}

/** A view of the same memory with another shape. */
export const reshaped = ({ data, dtype }: Tensor, ...shape: number[]): Tensor => tensor(data, shape, dtype)

/** out = x a^T for a [n, k], and its two gradients, each in a separate call. */
export class Product {
  readonly out: Tensor
  readonly #identity: Tensor
  readonly #a: Tensor
  #saved: LoraSaved | null = null

  constructor(rows: number, a: Tensor, type: Float) {
    const [n] = a.shape
    this.#a = a
    this.#identity = identity(n, a.dtype as Float)
    this.out = zeros([rows, n], type)
  }

  forward(x: Tensor): void {
    this.#saved = loraForward({ x, a: this.#a, b: this.#identity, y: this.out }, { accumulate: false }).saved
  }

  /** dx += dOut a */
  addDx(dOut: Tensor, dx: Tensor): void {
    loraBackward({ dy: dOut, dx }, this.#saved!, { needs: { dx: true, da: false, db: false }, retain: true })
  }

  /** da += dOut^T x */
  addDa(dOut: Tensor, da: Tensor): void {
    loraBackward({ dy: dOut, da }, this.#saved!, { needs: { dx: false, da: true, db: false }, retain: true })
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}

const ONLY_DX = { dx: true, da: false, dRouter: false, db: false }
const ONLY_DB = { dx: false, da: false, dRouter: false, db: true }

/** y += hidden combined for combined [k, d]: lilyForward with one expert of weight 1, and its two gradients. */
export class Expansion {
  readonly #hidden: Tensor
  readonly #a: Tensor
  readonly #b: Tensor
  readonly #y: Tensor
  #saved: LilySaved<'uniform'> | null = null

  constructor(hidden: Tensor, combined: Tensor, y: Tensor) {
    const k = hidden.shape[1]
    this.#hidden = hidden
    this.#a = identity(k, combined.dtype as Float)
    this.#b = reshaped(combined, 1, k, y.shape[1])
    this.#y = y
  }

  forward(): void {
    this.#saved = lilyForward({ x: this.#hidden, a: this.#a, b: this.#b, y: this.#y }, { routing: 'uniform' }).saved
  }

  backward(dy: Tensor, dHidden: Tensor, dCombined: Tensor, accumulate: boolean): void {
    const db = reshaped(dCombined, ...this.#b.shape)
    lilyBackward({ dy, dx: dHidden }, this.#saved!, { needs: ONLY_DX, accumulate: false, retain: true })
    lilyBackward({ dy, db }, this.#saved!, { needs: ONLY_DB, accumulate })
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}

/**
 * combined = sum_e w_e b_e, and its two gradients: lilyForward with one token, rank 1 and an output of r * d columns.
 */
export class Combination {
  readonly combined: Tensor
  readonly #one: Tensor
  readonly #b: Tensor
  readonly #dWeights: Product
  #saved: LilySaved<'fixed'> | null = null

  constructor(b: Tensor, type: Float) {
    const [experts, rank, d] = b.shape
    this.combined = zeros([1, rank * d], type)
    this.#one = filled([1, 1], 0, type)
    this.#one.data.fill(encode(Float32Array.of(1), type)[0])
    this.#b = reshaped(b, experts, 1, rank * d)
    this.#dWeights = new Product(1, reshaped(b, experts, rank * d), type)
  }

  forward(weights: Float32Array): void {
    const one = this.#one
    const operands = { x: one, a: one, b: this.#b, y: this.combined }
    const options = {
      routing: 'fixed',
      accumulate: false,
      weights: { data: weights, shape: [weights.length] },
    } as const
    this.#saved = lilyForward(operands, options).saved
  }

  /** db_e += w_e dCombined */
  addDb(dCombined: Tensor, db: Tensor): void {
    lilyBackward({ dy: dCombined, db: reshaped(db, ...this.#b.shape) }, this.#saved!, { needs: ONLY_DB })
  }

  /** dWeights_e = <b_e, dCombined> */
  dWeights(dCombined: Tensor): Float32Array {
    this.#dWeights.forward(dCombined)
    const { data, dtype } = this.#dWeights.out
    const values = decode(data, dtype as Float)
    this.#dWeights.dispose()
    return values
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}
