/** A capture: while a function runs, its calls on a device are recorded in a stream instead of run. */
import { fail } from '../base/errors.js'
import { DeviceMemory } from './device-memory.js'
import { isDeviceMemory, type OperandMemory } from './operand.js'
import { StreamState } from './stream-state.js'

/** What recorded work uses; as in a placement. */
interface Used {
  readonly stream: StreamState | null
  readonly owner?: unknown
  readonly memory?: OperandMemory
}

/** The stream of a recording, and all that the record needs for as long as it is replayed. */
export class Capture {
  static #current: Capture | null = null

  /** The one that is recording; null: calls run. Nothing interrupts it, for its function does not wait. */
  static get current(): Capture | null {
    return Capture.#current
  }

  /** Runs work at once, though a record is being made: what is done a single time must not be part of it. */
  static outside<T>(work: () => T): T {
    const recording = Capture.#current
    Capture.#current = null
    try {
      return work()
    } finally {
      Capture.#current = recording
    }
  }

  /** Where replays run, and what results belong to: the device's own stream, so that most replays join no other. */
  readonly home: StreamState
  /** Other streams of its operands: a replay comes after what they were given, and before what they will be given. */
  readonly joined = new Set<StreamState>()
  readonly #memory = new Set<DeviceMemory>()
  readonly #owners = new Set()

  /** @param stream one for the record alone */
  constructor(readonly stream: StreamState) {
    this.home = StreamState.own(stream.device)
  }

  /** Owners of memory that is not the package's. */
  get owners(): unknown[] {
    return [...this.#owners]
  }

  record<T>(work: () => T): T {
    Capture.#current = this
    try {
      return work()
    } finally {
      Capture.#current = null
    }
  }

  streamFor(device: number, given: StreamState | number | null): StreamState {
    const { stream } = this
    if (given !== null && given !== stream && given !== stream.number) {
      const number = typeof given === 'number' ? given : given.number
      fail(
        'ERR_LILY_ARGUMENT',
        'stream',
        `inside captureGraph calls run where the graph is replayed, got the stream 0x${number.toString(16)}; leave it out`,
      )
    }
    if (stream.device === device) return stream
    return fail(
      'ERR_LILY_DEVICE',
      'device',
      `the graph is of cuda:${stream.device}, but the operands are on cuda:${device}; capture one graph a device`,
    )
  }

  keep(used: DeviceMemory | Used): void {
    const memory = used instanceof DeviceMemory ? used : used.memory
    if (memory !== undefined && isDeviceMemory(memory) && !this.#memory.has(memory)) this.#memory.add(memory.retain())
    if ('owner' in used && used.owner != null) this.#owners.add(used.owner)
  }

  /** Lets go of what it keeps. */
  release(): void {
    for (const memory of this.#memory) memory.release()
    this.#memory.clear()
    this.#owners.clear()
  }
}

/** For what waits, or counts its calls: neither can be recorded. */
export function refuseInCapture(what: string, advice: string): void {
  if (Capture.current !== null) fail('ERR_LILY_ARGUMENT', 'fn', `${what} cannot be part of a graph; ${advice}`)
}
