import { pack, unpack, type Float } from './dtypes.js'

/** NaNs with bit patterns that no computation produces, to recognise untouched padding. */
const SENTINEL = { 4: 0x7fc5a5a5, 2: 0x7fa5 } as const

/** The layout of a matrix in its buffer: the gap between rows, and the margins before the first and after the last. */
export interface Layout {
  gap: number
  margin: number
}

export interface HostOperand {
  data: Float32Array | Uint16Array
  dtype: Float
  shape: number[]
  strides: number[]
  byteOffset: number
}

/** In a loop, because `every` with a function takes several times as long, and all tests come here. */
function isSame(words: Uint16Array, others: Uint16Array): boolean {
  for (let i = 0; i < words.length; i++) if (words[i] !== others[i]) return false
  return true
}

/** A matrix in a separate buffer, with NaN outside the matrix. */
export class Operand {
  readonly data: Float32Array | Uint16Array
  readonly #before: Uint16Array
  readonly #pitch: number
  readonly #margin: number

  constructor(
    readonly dtype: Float,
    readonly rows: number,
    readonly cols: number,
    values: ArrayLike<number>,
    { gap, margin }: Layout,
  ) {
    this.#pitch = cols + gap
    this.#margin = margin
    // No gap follows the last row, so an access there would also exceed the buffer.
    const length = 2 * margin + Math.max(rows * this.#pitch - gap, 0)
    this.data =
      dtype === 'float32'
        ? new Float32Array(new Uint32Array(length).fill(SENTINEL[4]).buffer)
        : new Uint16Array(length).fill(SENTINEL[2])
    const packed = pack(dtype, values)
    for (let row = 0; row < rows; row++) this.data.set(packed.subarray(row * cols, (row + 1) * cols), this.#start(row))
    this.#before = this.#words().slice()
  }

  /** As an operand of a call; `leading` dimensions may split the rows. */
  tensor(...leading: number[]): HostOperand {
    const { data, dtype } = this
    const shape = leading.length > 0 ? [...leading, this.cols] : [this.rows, this.cols]
    const strides = [1]
    for (let axis = shape.length - 2, stride = this.#pitch; axis >= 0; stride *= shape[axis--]) strides.unshift(stride)
    return { data, dtype, shape, strides, byteOffset: this.#margin * data.BYTES_PER_ELEMENT }
  }

  values(): Float32Array {
    const values = new Float32Array(this.rows * this.cols)
    for (let row = 0; row < this.rows; row++) {
      const numbers = this.data.subarray(this.#start(row), this.#start(row) + this.cols)
      values.set(unpack(this.dtype, numbers), row * this.cols)
    }
    return values
  }

  isUnchanged(): boolean {
    return isSame(this.#words(), this.#before)
  }

  isPaddingUnchanged(): boolean {
    const [words, before] = [this.#words().slice(), this.#before.slice()]
    const size = this.data.BYTES_PER_ELEMENT / 2
    for (let row = 0; row < this.rows; row++) {
      const range = [size * this.#start(row), size * (this.#start(row) + this.cols)] as const
      words.fill(0, ...range)
      before.fill(0, ...range)
    }
    return isSame(words, before)
  }

  #start(row: number): number {
    return this.#margin + row * this.#pitch
  }

  #words(): Uint16Array {
    return new Uint16Array(this.data.buffer)
  }
}
