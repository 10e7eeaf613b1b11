/** Memory for calls of the binding: every kind of buffer, random contents, and canaries around some of it. */
import type { Binding } from '../../lib/binding/native.js'
import { integer } from '../support/random.js'

export type Random = () => number
export type View = Float32Array | Float64Array | Uint16Array | Uint8Array | Int32Array
interface Kind {
  readonly BYTES_PER_ELEMENT: number
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): View
}
/** Allocates an array of `length` elements. Its contents are numbers that are useful as float32. */
export type Maker = (random: Random, kind: Kind, length: number, isOutput: boolean) => Block

/** A resizable ArrayBuffer, which the types of ES2023 lack. */
export interface Resizable extends ArrayBuffer {
  readonly resizable: boolean
  resize(byteLength: number): void
}
const ResizableBuffer = ArrayBuffer as unknown as new (
  byteLength: number,
  options: { maxByteLength: number },
) => Resizable

/** Bytes before and behind an array in the middle of its buffer. */
const MARGIN = 64
const CANARY = 0xa5

/** One array that a call is given, with its buffer. */
export class Block {
  #before: Uint8Array | null = null
  readonly #all: Uint8Array

  /** @param all the bytes of the buffer that are the array and its margins */
  constructor(
    readonly view: View,
    readonly isOutput: boolean,
    private readonly hasMargins: boolean,
    all = new Uint8Array(view.buffer),
  ) {
    this.#all = all
    if (!hasMargins) return
    this.#all.fill(CANARY, 0, MARGIN)
    this.#all.fill(CANARY, this.#all.length - MARGIN)
  }

  keep(): void {
    // The slice of a detached array throws.
    this.#before = this.#all.byteLength === 0 ? null : this.#all.slice()
  }

  /** Whether the buffer is detached or has been shrunk, so that its contents cannot be compared. */
  get isGone(): boolean {
    return this.#before === null || this.#all.byteLength !== this.#before.length
  }

  get isUnchanged(): boolean {
    return this.isGone || Buffer.compare(this.#all, this.#before ?? this.#all) === 0
  }

  get hasCanaries(): boolean {
    if (!this.hasMargins || this.isGone) return true
    const isCanary = (byte: number) => byte === CANARY
    return this.#all.subarray(0, MARGIN).every(isCanary) && this.#all.subarray(-MARGIN).every(isCanary)
  }
}

const POOL = new Float32Array(1 << 14)

/** An array in a buffer of JavaScript. */
export const allocate: Maker = (random, kind, length, isOutput) => {
  const byteLength = length * kind.BYTES_PER_ELEMENT
  const way = random()
  let view: View
  // Most arrays fill their buffer, so that AddressSanitizer sees the first byte beyond it.
  const hasMargins = way < 0.25
  if (hasMargins) {
    const rounded = Math.ceil(byteLength / 8) * 8
    view = new kind(new ArrayBuffer(2 * MARGIN + rounded), MARGIN, length)
  } else if (way < 0.5) {
    view = new kind(new ResizableBuffer(byteLength, { maxByteLength: byteLength + 64 }), 0, length)
  } else if (way < 0.54) {
    view = new kind(new SharedArrayBuffer(byteLength), 0, length)
  } else {
    view = new kind(new ArrayBuffer(byteLength), 0, length)
  }
  fill(random, view)
  return new Block(view, isOutput, hasMargins)
}

/** Arrays of which one in four is in the memory of the module of WebAssembly, which calls do not copy. */
export function allocateResident(allocateHost: NonNullable<Binding['allocateHost']>): Maker {
  return (random, kind, length, isOutput) => {
    const byteLength = Math.ceil((length * kind.BYTES_PER_ELEMENT) / 8) * 8 + 2 * MARGIN
    const block = random() < 0.25 ? allocateHost(byteLength) : null
    if (block === null) return allocate(random, kind, length, isOutput)
    const { buffer, byteOffset } = block
    const view = new kind(buffer, byteOffset + MARGIN, length)
    fill(random, view)
    return new Block(view, isOutput, true, new Uint8Array(buffer, byteOffset, byteLength))
  }
}

function fill(random: Random, view: View): void {
  if (POOL[0] === 0) for (let i = 0; i < POOL.length; i++) POOL[i] = (random() - 0.5) * 4
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  // Now and then any bit pattern: NaN, infinities, denormals.
  if (random() < 0.03) {
    for (let i = 0; i < bytes.length; i++) bytes[i] = integer(random, 0, 255)
    return
  }
  if (view instanceof Float64Array) {
    for (let i = 0; i < view.length; i++) view[i] = (random() - 0.5) * 4
    return
  }
  // The upper halves of float32 numbers are bfloat16 numbers; as float16 they are numbers, too.
  const source = view instanceof Float32Array ? new Uint8Array(POOL.buffer) : UPPER_HALVES()
  for (let at = 0; at < bytes.length; at += source.length / 2) {
    const from = 4 * integer(random, 0, source.length / 8 - 1)
    bytes.set(source.subarray(from, from + Math.min(source.length / 2, bytes.length - at)), at)
  }
}

let upperHalves: Uint8Array | null = null
function UPPER_HALVES(): Uint8Array {
  return (upperHalves ??= new Uint8Array(
    Uint16Array.from({ length: POOL.length }, (_, i) => new Uint16Array(POOL.buffer)[2 * i + 1]).buffer,
  ))
}
