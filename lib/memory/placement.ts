/**
 * The stream of a call on a device, its ordering with other streams, and what the call keeps alive until it has run.
 */
import { fail } from '../base/errors.js'
import { bound, settled } from '../binding/errors.js'
import { bindingOf, type WebGpuBinding, webGpuBinding } from '../binding/devices.js'
import type { DeviceBinding } from '../binding/native.js'
import { Capture, type Located } from './capture.js'
import { DeviceMemory } from './device-memory.js'
import { CPU, type Device, deviceText } from './device.js'
import { reported } from './reports.js'
import { StreamState } from './stream-state.js'

/**
 * The option `stream` of a call once it is read: a stream of the package, a cudaStream_t as a number, or null for none.
 */
export type StreamOption = StreamState | number | null

/** Device and stream of one call. */
export class Placement {
  readonly #joined = new Set<StreamState>()
  readonly #owners: unknown[] = []
  /** The capture that the call is a part of; null: the call runs. */
  readonly #capture = Capture.current

  private constructor(
    readonly device: Device,
    readonly stream: StreamState,
  ) {}

  /**
   * Chooses the stream of a call. The first of these that exists: the stream of a capture in progress, `stream`, the
   * one stream of all operands, `Stream.default` of the device. The call is ordered with every other stream of an
   * operand: after the work enqueued there so far, and before the work enqueued there later.
   *
   * @param operands lists the operands, with null or undefined for absent ones; it is not called on the host
   * @returns null on the host, which has no streams
   * @throws LilyError ERR_LILY_ARGUMENT for a stream with the cpu backend, ERR_LILY_DEVICE for a stream of another
   *   device
   */
  static of(
    device: Device,
    stream: StreamOption,
    operands: () => readonly (Located | null | undefined)[],
  ): Placement | null {
    if (device === CPU) {
      if (stream !== null) refuseStream(stream, 'the cpu backend has no streams')
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
    placement.#join(placement.#memoryStream)
    placement.#owners.push(...owners)
    return placement
  }

  static #choose(device: Device, stream: StreamOption, streams: ReadonlySet<StreamState>): StreamState {
    if (Capture.current !== null) return Capture.current.streamFor(device, stream)
    if (stream === null) {
      const [first = null, ...others] = streams
      const isCommon = first?.device === device && others.every(({ cudaStream }) => cudaStream === first.cudaStream)
      return isCommon ? first : StreamState.default(device)
    }
    if (device.type === 'webgpu' && (typeof stream === 'number' || stream.device.type !== 'webgpu')) {
      refuseStream(stream, `${deviceText(device)} has one queue; a GPUCommandEncoder goes to the option encoder`)
    }
    if (typeof stream === 'number') return StreamState.of(device, stream)
    if (stream.device === device) return stream
    return fail(
      'ERR_LILY_DEVICE',
      nameOf(stream),
      `expected one of ${deviceText(device)}, the device of the operands, got one of ${deviceText(stream.device)}`,
    )
  }

  get binding(): DeviceBinding {
    return bindingOf(this.device)
  }

  /** The binding of a GPUDevice; null on a CUDA device, whose calls the addon runs. */
  get gpu(): WebGpuBinding | null {
    const { type, id } = this.device
    return type === 'webgpu' ? webGpuBinding('device', id) : null
  }

  /** Whether the call is only encoded, into an encoder of the caller. */
  get isEncoded(): boolean {
    return this.device.type === 'webgpu' && this.stream.handle === null
  }

  /** The stream to which memory for results and workspaces belongs. */
  get #memoryStream(): StreamState {
    return this.#capture?.replayStream ?? this.stream.memoryStream
  }

  /** Orders this call with the work of another stream. */
  #join(other: StreamState): void {
    const joined = this.#capture?.joined ?? this.#joined
    const ordered = [this.#capture?.replayStream ?? this.stream, ...joined]
    // Compared by value: each operand in a foreign stream has its own StreamState.
    const isOrdered = ordered.some(
      ({ device, cudaStream }) => device === other.device && cudaStream === other.cudaStream,
    )
    if (!isOrdered) joined.add(other)
  }

  /** Adds an operand, which may be on another device. */
  use(operand: Located): void {
    if (operand.stream !== null) this.#join(operand.stream)
    if (operand.owner != null) this.#owners.push(operand.owner)
    this.#capture?.keep(operand)
  }

  /** Allocates memory for results or a workspace. Its contents are undefined. */
  allocate(argument: string, byteLength: number): DeviceMemory {
    const memory = new DeviceMemory(argument, this.device, byteLength, this.#memoryStream)
    this.#capture?.keep(memory)
    return memory
  }

  /**
   * Enqueues `work` in the stream, ordered with the other streams of the operands by events. The owners of foreign
   * memory are kept until it has run.
   */
  run<T>(work: () => T): T {
    return bound(() => {
      const { binding } = this
      const { cudaStream } = this.stream
      const { id } = this.device
      for (const other of this.#joined) binding.streamOrder(other.device.id, other.cudaStream, id, cudaStream)
      const result = work()
      for (const other of this.#joined) binding.streamOrder(id, cudaStream, other.device.id, other.cudaStream)
      // WebGPU itself keeps the buffers of submitted commands.
      const keeps = this.#capture === null && this.device.type !== 'webgpu'
      if (keeps && this.#owners.length > 0) keepUntilComplete(this.stream, this.#owners)
      return result
    })
  }

  /** Resolves when all work enqueued in the stream so far is complete. It rejects with LilyError. */
  async completed(): Promise<void> {
    await settled(bound(() => this.binding.streamWait(this.device.id, this.stream.cudaStream)))
    await reported(this.device)
  }
}

/** The option that a stream was given as. */
function nameOf(stream: StreamState | number): 'stream' | 'encoder' {
  return typeof stream === 'object' && stream.device.type === 'webgpu' ? 'encoder' : 'stream'
}

function refuseStream(stream: StreamState | number, why: string): never {
  fail('ERR_LILY_ARGUMENT', nameOf(stream), `expected none, since ${why}; leave it out`)
}

/** Owners of memory that work enqueued in a stream still uses, in the order in which it was enqueued. */
const waiting = new Set<{ readonly stream: StreamState; readonly owners: readonly unknown[] }>()

/** Keeps owners reachable until all work enqueued in the stream so far is complete. */
export function keepUntilComplete(stream: StreamState, owners: readonly unknown[]): void {
  const entry = { stream, owners }
  waiting.add(entry)
  // The work of a stream completes in order. An earlier entry is still there if no wait could be created for it.
  const drop = () => {
    if (!waiting.has(entry)) return
    for (const earlier of waiting) {
      // Compared by value: each operand in a foreign stream has its own StreamState.
      const { device, cudaStream } = earlier.stream
      if (device === stream.device && cudaStream === stream.cudaStream) waiting.delete(earlier)
      if (earlier === entry) return
    }
  }
  // After a failure no work uses the memory any more. The error is reported to those who await the stream, not here.
  bindingOf(stream.device).streamWait(stream.device.id, stream.cudaStream).then(drop, drop)
}
