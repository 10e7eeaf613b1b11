/** Dropout of the input of an adapter: the option, its state, and the draws that calls take of it (docs/math.md#dropout). */
import { type HostData, viewOf } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import { checkCount, type Known, readProperties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { Capture } from '../memory/capture.js'
import { checkPlace, refuseOverlap, refuseReadOnly } from '../memory/checks.js'
import type { DeviceMemory } from '../memory/device-memory.js'
import { CPU } from '../memory/device.js'
import { isHostMemory } from '../memory/operand-memory.js'
import { checkMemory, type Operand, type Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import type { TensorLike } from '../tensor/resolve.js'
import { type Call, DRAW, DRAW_SIZES } from './call.js'
import type { ForwardInputs, ForwardSettings } from './read.js'
import { resolveSmall } from './small-operands.js'

/** The option `dropout` of a forward call. */
export interface DropoutOptions {
  /** The probability with which an element of x is dropped, at least 0 and below 1, in steps of 1 / 65536. 0: none is. */
  readonly rate: number
  /**
   * `[4]`, int32: seed and position, as {@link dropoutState} returns them. A call that drops takes the position and advances
   * the state to the next one, in place. On the host, or on the CUDA device of x, where a graph needs it.
   */
  readonly state: Int32Array | TensorLike
}

/** The option, once it is read. */
export interface Dropout {
  /** n: an element is dropped if its random number of 16 bits is below it. Above 0. */
  readonly threshold: number
  readonly state: Operand
}

const STATE = 'dropout.state'
const WORDS = 4
const INT32 = ['int32'] as const
const OPTIONS: Known = new Set<keyof DropoutOptions>(['rate', 'state'])

/**
 * A new state of dropout, `[4]`: the seed, and the position of the next call, two words of 32 bits each, the low one first
 * (docs/math.md#dropout). One state is for one sequence of forward calls: each takes the next position.
 *
 * @param seed a whole number from 0 to 2^53 - 1. Equal seeds and positions drop the same elements
 * @param position the number of calls that have drawn before; default 0
 * @throws LilyError ERR_LILY_ARGUMENT
 * @example
 * const dropout = { rate: 0.1, state: dropoutState(42) }
 * const { y, saved } = lilyForward({ x, a, router, b }, { dropout })
 */
export function dropoutState(seed: number, position = 0): Int32Array {
  const words = [seed, position].flatMap((number, i) => {
    checkCount(i === 0 ? 'seed' : 'position', number, 0, Number.MAX_SAFE_INTEGER)
    return [number % 2 ** 32, Math.floor(number / 2 ** 32)]
  })
  return new Int32Array(new Uint32Array(words).buffer)
}

/** Checks a rate of dropout. */
export function checkRate(argument: string, value: unknown): number {
  if (typeof value === 'number' && value >= 0 && value < 1) return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected a number that is at least 0 and below 1, got ${describe(value)}`)
}

/** Null: the call drops nothing. */
export function readDropout(value: unknown): Dropout | null {
  if (value === undefined) return null
  return readProperties('dropout', value, OPTIONS, (given) => {
    const threshold = Math.min(Math.round(2 ** 16 * checkRate('dropout.rate', given.rate)), 2 ** 16 - 1)
    const state = readState(given.state)
    return threshold === 0 ? null : { threshold, state }
  })
}

function readState(value: unknown): Operand {
  if (value === undefined) {
    fail(
      'ERR_LILY_ARGUMENT',
      STATE,
      'is required, got undefined; pass one dropoutState(seed) to all calls of a training',
    )
  }
  const state = resolveSmall(STATE, value, INT32)
  if (state.dtype !== 'int32')
    fail('ERR_LILY_DTYPE', STATE, `expected int32, got ${state.dtype}; pass dropoutState(seed)`)
  if (state.shape.length !== 1 || state.shape[0] !== WORDS) {
    fail('ERR_LILY_SHAPE', STATE, `expected [${WORDS}], as dropoutState returns, got ${shapeText(state.shape)}`)
  }
  if (state.isReadOnly) refuseReadOnly(STATE)
  return state
}

/** Checks where the state is, and that it shares no memory with another operand. */
export function checkDropout(
  { state }: Dropout,
  { x, a, router, b, weight, bias, y }: ForwardInputs,
  { mask, sequenceOffsets, weights }: ForwardSettings,
): void {
  if (state.device === CPU) {
    checkMemory(STATE, state)
    if (Capture.current !== null && x.device !== CPU) {
      fail(
        'ERR_LILY_ARGUMENT',
        STATE,
        'expected memory of the device inside captureGraph, got memory of the host, with which all replays would drop the ' +
          'same elements; pass tensor(state, [4]).to(device)',
      )
    }
  } else {
    checkPlace(STATE, state, 'x', x)
    if (state.device.type === 'webgpu') {
      fail('ERR_LILY_DEVICE', STATE, 'expected memory of the host for an x on a GPUDevice; pass dropoutState(seed)')
    }
  }
  const small = { mask: mask?.source, sequenceOffsets: sequenceOffsets?.source, weights: weights?.source }
  const others = { x, a, router, b, weight: weight?.operand, bias, y: y?.operand, ...small }
  for (const [name, other] of Object.entries(others)) refuseOverlap(STATE, state, name, other)
}

/** How a call draws: a call that fails has not advanced the state. */
export interface Drawing {
  /** Where the kernels of the call read what is drawn. */
  readonly operand: Part
  /** The calls that follow it: with a state in device memory one that keeps what was drawn, and advances the state. */
  readonly calls: readonly Call[]
  /** A state in host memory is drawn from when the call starts. */
  readonly draw?: Draw
}

/**
 * @param draw what backward reads
 */
export function drawFrom(state: Operand, draw: Part, placement: Placement | null): Drawing {
  if (state.device !== CPU) {
    // Forward reads the state itself: each replay of a graph draws anew.
    const operand = { memory: state.memory, byteOffset: state.byteOffset }
    return { operand, calls: [{ kind: DRAW, problem: DRAW_SIZES, operands: [operand, draw], placement }] }
  }
  return { operand: draw, calls: [], draw: new Draw(state, draw, placement) }
}

/** A draw from a state in host memory. */
export class Draw {
  #drawn: Int32Array | null = null

  constructor(
    private readonly state: Operand,
    private readonly draw: Part,
    private readonly placement: Placement | null,
  ) {}

  /** Gives the kernels what is drawn. */
  take(): void {
    const drawn = this.#words.slice()
    if (isHostMemory(this.draw.memory)) this.draw.memory.set(drawn)
    else upload(drawn, this.draw, this.placement as Placement)
    this.#drawn = drawn
  }

  /** Once no call is refused any more. */
  advance(): void {
    const words = this.#words
    if (++words[2] === 0) words[3]++
  }

  /** Takes the advance back, unless another call has drawn since. */
  undo(): void {
    const [drawn, words] = [this.#drawn as Int32Array, this.#words]
    if (words.length === WORDS && words[2] === ((drawn[2] + 1) | 0)) words.set(drawn)
  }

  /** No words if the memory was transferred. */
  get #words(): Int32Array {
    const { memory, byteOffset } = this.state
    const data = memory as HostData
    if (data.byteLength === 0) return new Int32Array()
    return viewOf('int32', data.buffer, data.byteOffset + byteOffset, WORDS) as Int32Array
  }
}

function upload(words: HostData, { memory, byteOffset }: Part, { binding, device, stream }: Placement): void {
  const bytes = new Uint8Array(words.buffer)
  binding.upload(device.id, (memory as DeviceMemory).handle, byteOffset, bytes, stream.cudaStream)
}
