/**
 * What fusion is measured against: the same adapter as separate steps, each a call of its own with its result in memory
 * and a backward of its own, as an automatic differentiation would run them.
 *
 * The products are this package's own, so that fusion alone makes the difference and not somebody's slower product. Its
 * interface has no bare product: a step is loraForward with an identity matrix in the place of the factor that it does
 * not need, which adds about r / d to its arithmetic.
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
} from '../../lib/index.js'
import { decode, encode, type Float } from '../dtypes.js'
import { filled, zeros } from '../operands.js'

export function identity(size: number, dtype: Float): Tensor {
  const data = new Float32Array(size * size)
  for (let i = 0; i < size; i++) data[i * size + i] = 1
  return tensor(encode(data, dtype), [size, size], dtype)
}

/** The same memory under another shape. */
export const reshaped = ({ data, dtype }: Tensor, ...shape: number[]): Tensor => tensor(data, shape, dtype)

/** A product with a [n, k] from the right, out = x a^T, and its two gradients, each in a call of its own. */
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

  /** dx += dout a */
  addDx(dout: Tensor, dx: Tensor): void {
    loraBackward({ dy: dout, dx }, this.#saved!, { needs: { dx: true, da: false, db: false } })
  }

  /** da += dout^T x */
  addDa(dout: Tensor, da: Tensor): void {
    loraBackward({ dy: dout, da }, this.#saved!, { needs: { dx: false, da: true, db: false } })
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}

const DX = { dx: true, da: false, dRouter: false, db: false }
const DB = { dx: false, da: false, dRouter: false, db: true }

/** y += h c with c [k, d]: lilyForward with one expert that weighs 1, and its two gradients. */
export class Expansion {
  readonly #h: Tensor
  readonly #a: Tensor
  readonly #b: Tensor
  readonly #y: Tensor
  #saved: LilySaved<'uniform'> | null = null

  constructor(h: Tensor, c: Tensor, y: Tensor) {
    const k = h.shape[1]
    this.#h = h
    this.#a = identity(k, c.dtype as Float)
    this.#b = reshaped(c, 1, k, y.shape[1])
    this.#y = y
  }

  forward(): void {
    this.#saved = lilyForward({ x: this.#h, a: this.#a, b: this.#b, y: this.#y }, { routing: 'uniform' }).saved
  }

  backward(dy: Tensor, dh: Tensor, dc: Tensor, accumulate: boolean): void {
    const db = reshaped(dc, ...this.#b.shape)
    lilyBackward({ dy, dx: dh }, this.#saved!, { needs: DX, accumulate: false })
    lilyBackward({ dy, db }, this.#saved!, { needs: DB, accumulate })
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}

/** c = sum_e w_e b_e, as one token of rank 1 whose output is r * d wide, and its two gradients. */
export class Mixture {
  readonly c: Tensor
  readonly #one: Tensor
  readonly #b: Tensor
  readonly #dw: Product
  #saved: LilySaved<'fixed'> | null = null

  constructor(b: Tensor, type: Float) {
    const [experts, rank, d] = b.shape
    this.c = zeros([1, rank * d], type)
    this.#one = filled([1, 1], 0, type)
    this.#one.data.fill(encode(Float32Array.of(1), type)[0])
    this.#b = reshaped(b, experts, 1, rank * d)
    this.#dw = new Product(1, reshaped(b, experts, rank * d), type)
  }

  forward(weights: Float32Array): void {
    const one = this.#one
    const operands = { x: one, a: one, b: this.#b, y: this.c }
    const options = {
      routing: 'fixed',
      accumulate: false,
      weights: { data: weights, shape: [weights.length] },
    } as const
    this.#saved = lilyForward(operands, options).saved
  }

  /** db_e += w_e dc */
  addDb(dc: Tensor, db: Tensor): void {
    lilyBackward({ dy: dc, db: reshaped(db, ...this.#b.shape) }, this.#saved!, { needs: DB })
  }

  /** dw_e = <b_e, dc> */
  dw(dc: Tensor): Float32Array {
    this.#dw.forward(dc)
    const { data, dtype } = this.#dw.out
    const values = decode(data, dtype as Float)
    this.#dw.dispose()
    return values
  }

  dispose(): void {
    this.#saved?.dispose()
    this.#saved = null
  }
}
