/**
 * Stream capture (CUDA Programming Guide, "CUDA Graphs"): while the function passed to `captureGraph` runs, its calls
 * on a device are captured into a graph and not executed.
 */
import { fail } from '../base/errors.js'
import type { DeviceMemory } from './device-memory.js'
import { type Device, deviceText } from './device.js'
import { isDeviceMemory, type OperandMemory } from './operand-memory.js'
import { StreamState } from './stream-state.js'

/** An operand of enqueued work, as far as ordering and lifetime are concerned. */
export interface Located {
  /** The stream whose earlier work the call waits for; null: none. */
  readonly stream: StreamState | null
  /** The object that keeps foreign memory alive. */
  readonly owner?: unknown
  readonly memory?: OperandMemory
}

/** The capturing stream, and the resources that the graph needs until it is disposed of. */
export class Capture {
  /** The capture in progress; null if calls run normally. One is enough: the captured function is synchronous. */
  static current: Capture | null = null

  /** Runs `work` now, outside a capture in progress. For work that must happen once and not at every replay. */
  static outside<T>(work: () => T): T {
    const capture = Capture.current
    Capture.current = null
    try {
      return work()
    } finally {
      Capture.current = capture
    }
  }

  /**
   * The stream in which replays run and to which results belong: `Stream.default` of the device. Most operands belong
   * to it too, so most replays need no ordering with other streams.
   */
  readonly replayStream: StreamState
  /** The other streams of the operands. A replay is ordered after their earlier work and before their later work. */
  readonly joined = new Set<StreamState>()
  readonly #memory = new Set<DeviceMemory>()
  readonly #owners = new Set()

  /** @param stream the capturing stream, used for nothing else */
  constructor(readonly stream: StreamState) {
    this.replayStream = StreamState.default(stream.device)
  }

  /** Objects that keep foreign memory alive. */
  get owners(): unknown[] {
    return [...this.#owners]
  }

  /** Runs `work` as a part of this capture. */
  run<T>(work: () => T): T {
    Capture.current = this
    try {
      return work()
    } finally {
      Capture.current = null
    }
  }

  /**
   * The stream of a call in the capture. `given` is the call's `options.stream`.
   *
   * @throws LilyError ERR_LILY_ARGUMENT for another stream, ERR_LILY_DEVICE for another device than the capture's
   */
  streamFor(device: Device, given: StreamState | number | null): StreamState {
    const { stream } = this
    if (given !== null && given !== stream && given !== stream.cudaStream) {
      const cudaStream = typeof given === 'number' ? given : given.cudaStream
      fail(
        'ERR_LILY_ARGUMENT',
        'stream',
        `expected none inside captureGraph, got the stream 0x${cudaStream.toString(16)}; leave it out`,
      )
    }
    if (stream.device === device) return stream
    return fail(
      'ERR_LILY_DEVICE',
      'device',
      `expected operands on ${deviceText(stream.device)}, the graph's device, got ${deviceText(device)}; capture one graph per device`,
    )
  }

  /** Keeps the memory and the owner of an operand until the graph is disposed of. */
  keep(used: DeviceMemory | Located): void {
    const memory = 'handle' in used ? used : used.memory
    if (memory !== undefined && isDeviceMemory(memory) && !this.#memory.has(memory)) this.#memory.add(memory.retain())
    if ('owner' in used && used.owner != null) this.#owners.add(used.owner)
  }

  /** Releases everything that {@link keep} keeps. */
  release(): void {
    for (const memory of this.#memory) memory.release()
    this.#memory.clear()
    this.#owners.clear()
  }
}

/** Rejects a call inside a capture that cannot be captured: it waits, or its effect differs from call to call. */
export function refuseInCapture(what: string, advice: string): void {
  if (Capture.current !== null) fail('ERR_LILY_ARGUMENT', 'fn', `${what} cannot be part of a graph; ${advice}`)
}
