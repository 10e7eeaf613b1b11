/** A NaN that no computation makes, to tell untouched padding by its bits. */
const SENTINEL = 0x7fc5a5a5

/** How a matrix lies in its buffer: numbers between its rows, and before the first and after the last. */
export interface Layout {
  gap: number
  margin: number
}

/** A matrix in a buffer of its own, with NaN in every place that is not its. */
export class Operand {
  readonly data: Float32Array
  readonly #before: Uint32Array
  readonly #pitch: number
  readonly #margin: number

  constructor(
    readonly rows: number,
    readonly cols: number,
    values: ArrayLike<number>,
    { gap, margin }: Layout,
  ) {
    this.#pitch = cols + gap
    this.#margin = margin
    // The last row has no gap after it: one that is read or written there would go beyond the buffer, too.
    const length = 2 * margin + Math.max(rows * this.#pitch - gap, 0)
    this.data = new Float32Array(new Uint32Array(length).fill(SENTINEL).buffer)
    for (let row = 0; row < rows; row++)
      for (let col = 0; col < cols; col++) this.data[this.#start(row) + col] = values[row * cols + col]
    this.#before = this.#words().slice()
  }

  /** As an operand of a call; `leading` dimensions may split the rows. */
  tensor(...leading: number[]): { data: Float32Array; shape: number[]; strides: number[]; byteOffset: number } {
    const shape = leading.length > 0 ? [...leading, this.cols] : [this.rows, this.cols]
    const strides = [1]
    for (let axis = shape.length - 2, stride = this.#pitch; axis >= 0; stride *= shape[axis--]) strides.unshift(stride)
    return { data: this.data, shape, strides, byteOffset: this.#margin * Float32Array.BYTES_PER_ELEMENT }
  }

  values(): Float32Array {
    const values = new Float32Array(this.rows * this.cols)
    for (let row = 0; row < this.rows; row++)
      values.set(this.data.subarray(this.#start(row), this.#start(row) + this.cols), row * this.cols)
    return values
  }

  isUnchanged(): boolean {
    return this.#words().every((word, i) => word === this.#before[i])
  }

  isPaddingUnchanged(): boolean {
    const words = this.#words().slice()
    for (let row = 0; row < this.rows; row++) words.fill(SENTINEL, this.#start(row), this.#start(row) + this.cols)
    return words.every((word) => word === SENTINEL)
  }

  #start(row: number): number {
    return this.#margin + row * this.#pitch
  }

  #words(): Uint32Array {
    return new Uint32Array(this.data.buffer)
  }
}
