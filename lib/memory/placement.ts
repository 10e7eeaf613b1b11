/** Where a call on a device runs: in which stream, after and before which others, and what must live until then. */
import { fail } from '../base/errors.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import { Capture } from './capture.js'
import { DeviceMemory } from './device-memory.js'
import { CPU, type Device } from './device.js'
import type { OperandMemory } from './operand.js'
import { StreamState } from './stream-state.js'

/** What `options.stream` may be, once it is read. */
export type StreamOption = StreamState | number | null

/** Something that queued work may use. */
export interface Located {
  readonly stream: StreamState | null
  readonly owner?: unknown
  readonly memory?: OperandMemory
}

export class Placement {
  readonly #joined = new Set<StreamState>()
  readonly #owners: unknown[] = []
  /** Of the call, where it is recorded and not run. */
  readonly #capture = Capture.current

  private constructor(
    readonly device: Device,
    readonly stream: StreamState,
  ) {}

  /**
   * The stream of a call: that of a capture, else `stream`, else the one that all operands have in common, else the
   * device's own. Every other stream of an operand is joined to it, before and after. Null: on the host, which has no
   * streams.
   */
  static of(
    device: Device,
    stream: StreamOption,
    operands: () => readonly (Located | null | undefined)[],
  ): Placement | null {
    if (device === CPU) {
      if (stream !== null) {
        fail(
          'ERR_LILY_ARGUMENT',
          'stream',
          'the cpu backend has no streams: its calls are done when they return; leave it out',
        )
      }
      return null
    }
    const streams = new Set<StreamState>()
    const owners = new Set()
    for (const operand of operands()) {
      if (operand == null) continue
      if (operand.stream !== null) streams.add(operand.stream)
      if (operand.owner != null) owners.add(operand.owner)
      Capture.current?.keep(operand)
    }
    const placement = new Placement(device, Placement.#choose(device, stream, streams))
    for (const other of streams) placement.#join(other)
    placement.#join(placement.#home)
    placement.#owners.push(...owners)
    return placement
  }

  static #choose({ id }: Device, stream: StreamOption, streams: ReadonlySet<StreamState>): StreamState {
    if (Capture.current !== null) return Capture.current.streamFor(id, stream)
    if (stream === null) {
      const [first = null, ...others] = streams
      const isCommon = first?.device === id && others.every(({ number }) => number === first.number)
      return isCommon ? first : StreamState.own(id)
    }
    if (typeof stream === 'number') return StreamState.of(id, stream)
    if (stream.device === id) return stream
    return fail(
      'ERR_LILY_DEVICE',
      'stream',
      `is of cuda:${stream.device}, but the operands are on cuda:${id}; pass a stream of their device`,
    )
  }

  /** The stream that memory for results belongs to. */
  get #home(): StreamState {
    return this.#capture?.home ?? this.stream.home
  }

  #join(other: StreamState): void {
    const joined = this.#capture?.joined ?? this.#joined
    const known = [this.#capture?.home ?? this.stream, ...joined]
    // Of a foreign stream every operand has a state of its own.
    const isKnown = known.some(({ device, number }) => device === other.device && number === other.number)
    if (!isKnown) joined.add(other)
  }

  /** A further operand, which may be on another device. */
  use(operand: Located): void {
    if (operand.stream !== null) this.#join(operand.stream)
    if (operand.owner != null) this.#owners.push(operand.owner)
    this.#capture?.keep(operand)
  }

  /** Memory for the call's results and workspace, whose contents are undefined. */
  allocate(argument: string, byteLength: number): DeviceMemory {
    const memory = new DeviceMemory(argument, this.device, byteLength, this.#home)
    this.#capture?.keep(memory)
    return memory
  }

  /** Enqueues work: after all that the operands' streams were given, and before all that they will be given. */
  run<T>(work: () => T): T {
    return bound(() => {
      const { device, number } = this.stream
      for (const other of this.#joined) native.streamOrder(other.device, other.number, device, number)
      const result = work()
      for (const other of this.#joined) native.streamOrder(device, number, other.device, other.number)
      if (this.#owners.length > 0 && this.#capture === null) keepUntilPassed(this.stream, this.#owners)
      return result
    })
  }

  /** When all that the stream has been given is done. */
  passed(): Promise<void> {
    return native.streamWait(this.stream.device, this.stream.number)
  }
}

/** Owners whose memory queued work still uses. */
const waiting = new Set<object>()

/** Keeps owners until all that the stream has been given is done. */
export function keepUntilPassed({ device, number }: StreamState, owners: readonly unknown[]): void {
  const entry = { owners }
  waiting.add(entry)
  const drop = () => {
    waiting.delete(entry)
  }
  // A stream that has failed uses nothing any more, and whoever waits for it hears of the failure.
  native.streamWait(device, number).then(drop, drop)
}
