/** Random calls of the functions for CUDA devices: handles that are live, released or of another kind, and wrong numbers. */
import type { EventHandle, GraphHandle, MemoryHandle, Native, StreamHandle } from '../../lib/binding/native.js'
import { integer } from '../support/random.js'
import { type Call, type FunctionName, pick } from './calls.js'
import type { Random } from './memory.js'

type Kind =
  | 'device'
  | 'memory'
  | 'stream'
  | 'event'
  | 'graph'
  | 'cudaStream'
  | 'zero'
  | 'address'
  | 'bytes'
  | 'byte'
  | 'array'
  | 'flag'
  | 'backend'
  | 'text'

const SIGNATURES: Partial<Record<FunctionName, readonly Kind[]>> = {
  memoryAllocate: ['bytes', 'stream'],
  memoryAddress: ['memory'],
  memoryRelease: ['memory'],
  checkPointer: ['device', 'address', 'bytes', 'text'],
  upload: ['device', 'memory', 'bytes', 'array', 'cudaStream'],
  download: ['device', 'memory', 'bytes', 'array', 'cudaStream'],
  copy: ['device', 'memory', 'bytes', 'device', 'address', 'bytes', 'bytes', 'cudaStream'],
  fill: ['device', 'memory', 'bytes', 'bytes', 'byte', 'cudaStream'],
  streamDefault: ['device'],
  streamCreate: ['device'],
  streamHandle: ['stream'],
  streamDestroy: ['stream'],
  streamOrder: ['device', 'cudaStream', 'device', 'cudaStream'],
  streamWait: ['device', 'cudaStream'],
  streamWaitEvent: ['device', 'cudaStream', 'event'],
  eventCreate: ['device'],
  eventDestroy: ['event'],
  eventRecord: ['event', 'cudaStream'],
  eventQuery: ['event'],
  eventWait: ['event'],
  eventElapsed: ['event', 'event'],
  captureBegin: ['stream'],
  captureEnd: ['stream'],
  graphLaunch: ['graph', 'zero'],
  graphDestroy: ['graph'],
  poolStatistics: ['backend', 'device', 'flag'],
  emptyCache: [],
}
const NAMES = Object.keys(SIGNATURES) as FunctionName[]
/** The functions that return a handle. */
const MAKERS: Partial<Record<FunctionName, Kind>> = {
  memoryAllocate: 'memory',
  streamCreate: 'stream',
  streamDefault: 'stream',
  eventCreate: 'event',
  captureEnd: 'graph',
}

const WRONG = [
  null,
  undefined,
  'x',
  {},
  [],
  Symbol('x'),
  NaN,
  -1,
  0.5,
  Infinity,
  2 ** 62,
  new DataView(new ArrayBuffer(8)),
]

export class DeviceCalls {
  private readonly memory: MemoryHandle[] = []
  private readonly stream: StreamHandle[] = []
  private readonly event: EventHandle[] = []
  private readonly graph: GraphHandle[] = []

  constructor(
    private readonly native: Native,
    private readonly random: Random,
  ) {
    this.stream.push(native.streamDefault(0), native.streamCreate(0))
    for (const stream of this.stream) this.memory.push(native.memoryAllocate(4096, stream))
    this.event.push(native.eventCreate(0))
    native.captureBegin(this.stream[1])
    this.graph.push(native.captureEnd(this.stream[1]))
  }

  private value(kind: Kind): unknown {
    const { random, native } = this
    // CUDA cannot check a whole number that is not the handle of a stream: only streams that exist are passed.
    if (random() < 0.08) return pick(random, WRONG)
    switch (kind) {
      case 'memory':
      case 'stream':
      case 'event':
      case 'graph': {
        if (random() < 0.05) return this.value(pick(random, ['memory', 'stream', 'event', 'graph']))
        const handles: readonly unknown[] = this[kind]
        return pick(random, handles)
      }
      case 'cudaStream':
        return random() < 0.5 ? 0 : native.streamHandle(pick(random, this.stream))
      case 'zero':
        // The emulator has no graphs in graphs: the stream is not in a capture.
        return 0
      case 'address': {
        if (random() < 0.4) return pick(random, this.memory)
        if (random() < 0.3) return pick(random, [0n, 1n, -1n, 2n ** 47n, 2n ** 64n - 1n, 2n ** 64n])
        return native.memoryAddress(pick(random, this.memory)) + BigInt(integer(random, -16, 64))
      }
      case 'device':
        return random() < 0.9 ? 0 : pick(random, [1, 63, 64, -1, 2 ** 32])
      case 'bytes':
        return random() < 0.9 ? integer(random, 0, 600) : pick(random, [4096, 4097, 2 ** 45, 2 ** 53, -1])
      case 'byte':
        return integer(random, 0, random() < 0.9 ? 255 : 300)
      case 'array':
        return random() < 0.5 ? new Uint8Array(integer(random, 0, 600)) : new Float64Array(integer(random, 0, 70))
      case 'flag':
        return random() < 0.5
      case 'backend':
        return integer(random, 0, 1)
      case 'text':
        return 'x'
    }
  }

  next(): Call {
    const name = pick(this.random, NAMES)
    return { name, args: (SIGNATURES[name] ?? []).map((kind) => this.value(kind)), blocks: [] }
  }

  /** Keeps a handle for later calls. */
  returned(name: FunctionName, result: unknown): void {
    const kind = MAKERS[name]
    if (kind !== 'memory' && kind !== 'stream' && kind !== 'event' && kind !== 'graph') return
    const handles: unknown[] = this[kind]
    if (handles.length < 6) handles.push(result)
    else handles[integer(this.random, 0, handles.length - 1)] = result
  }
}
