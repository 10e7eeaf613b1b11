/** Makes valid calls of the binding invalid, mostly. */
import { adapterFields, slotFields } from '../../lib/binding/slots.js'
import { SLOT_NUMBERS } from '../../lib/binding/tables.js'
import { gc } from '../support/collect.js'
import { integer } from '../support/random.js'
import { type Call, type FunctionName, OF_OPERATIONS, pick } from './calls.js'
import { allocate, type Random, type Resizable, type View } from './memory.js'

// prettier-ignore
const NUMBERS = [
  NaN, Infinity, -Infinity, -0, -1, 0, 1, 2, 3, 0.5, 1.5, 5, 6, 7, 63, 64, 65, 255, 256, 4095, 4096, 4097,
  2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, -(2 ** 31), -(2 ** 32), 2 ** 40, 2 ** 41,
  2 ** 48, 2 ** 52, 2 ** 53, 2 ** 53 + 2, -(2 ** 53), 2 ** 62, 2 ** 63, 2 ** 64, 1e308, 5e-324,
]

function number(random: Random, old: number): number {
  switch (integer(random, 0, 4)) {
    case 0:
      return old + 1
    case 1:
      return old - 1
    case 2:
      return old * integer(random, 2, 5)
    default:
      return pick(random, NUMBERS)
  }
}

const isView = (value: unknown): value is View => ArrayBuffer.isView(value) && !(value instanceof DataView)

/** Takes the memory of an array away, in one of the ways that a program has. */
function takeAway(random: Random, view: View): void {
  const { buffer } = view
  if (buffer instanceof SharedArrayBuffer) return
  if ((buffer as Resizable).resizable) {
    const resizable = buffer as Resizable
    resizable.resize(integer(random, 0, 1) * Math.floor(buffer.byteLength / 2))
    return
  }
  if (buffer.byteLength === 0) return
  structuredClone(null, { transfer: [buffer] })
  // The memory is freed with its new owner.
  if (random() < 0.2) gc()
}

/** A value that is not what a function expects. */
function junk(random: Random): unknown {
  const other = [
    () => null,
    () => undefined,
    () => pick(random, NUMBERS),
    () => BigInt(Math.floor(random() * 2 ** 52)) << 12n,
    () => -1n,
    () => 'x',
    () => true,
    () => Symbol('x'),
    () => ({}),
    () => ({ length: 4, 0: null }),
    () => [],
    () => [1, 2, 3, 4],
    () => new Array<unknown>(2 ** 32 - 1),
    () => () => 0,
    () => new ArrayBuffer(64),
    () => new DataView(new ArrayBuffer(64)),
    () => new Float32Array(integer(random, 0, 9)),
    () => new Float64Array(integer(random, 0, 200)),
    () => new BigInt64Array(4),
    () => new Uint8ClampedArray(100),
    () => new Proxy(new Float32Array(9), {}),
    () => new Proxy([], {}),
    () => Object.create(Float32Array.prototype) as unknown,
    // An External of Node.js, where there is one.
    () => (process.channel as unknown as { _externalStream?: unknown } | undefined)?._externalStream,
  ]
  return pick(random, other)()
}

/** An array over the same memory that has another kind, length or alignment. */
function otherView(random: Random, view: View): unknown {
  const { buffer, byteOffset, byteLength } = view
  if (byteLength === 0 || buffer.byteLength === 0) return new DataView(new ArrayBuffer(0))
  const kinds = [Float32Array, Float64Array, Uint16Array, Uint8Array, Int32Array, BigUint64Array]
  switch (integer(random, 0, 4)) {
    case 0:
      return view.subarray(0, integer(random, 0, view.length))
    case 1:
      return view.subarray(Math.max(view.length - 1, 0))
    case 2:
      return view.subarray(0, Math.max(view.length - 1, 0))
    case 3: {
      const from = integer(random, 0, Math.min(byteLength, 7))
      return new Uint8Array(buffer, byteOffset + from, byteLength - from)
    }
    default: {
      const kind = pick(random, kinds) as typeof Uint8Array
      const bytes = kind.BYTES_PER_ELEMENT
      if (byteOffset % bytes !== 0) return new DataView(buffer, byteOffset, byteLength)
      return new kind(buffer, byteOffset, Math.floor(byteLength / bytes))
    }
  }
}

/** Every typed array of a call. */
function views({ args: [descriptor], blocks }: Call): View[] {
  return [descriptor, ...blocks.map(({ view }) => view)].filter(isView)
}

/** Gives an operand of an operation another type, and memory of the size of that type. */
function retype(random: Random, { args, blocks }: Call): void {
  const [descriptor] = args
  const slot = integer(random, 0, args.length - 2)
  const old = args[1 + slot]
  if (!(descriptor instanceof Float64Array) || !isView(old)) return
  const at = descriptor.length - (args.length - 1 - slot) * SLOT_NUMBERS
  if (at < 0) return
  const type = integer(random, 0, 2)
  descriptor[at + slotFields.byteOffset] *= (type === 0 ? 4 : 2) / old.BYTES_PER_ELEMENT
  descriptor[at + slotFields.dtype] = type
  const block = allocate(random, type === 0 ? Float32Array : Uint16Array, old.length, true)
  blocks.push(block)
  args[1 + slot] = block.view
}

function mutateOnce(random: Random, call: Call): void {
  const { args } = call
  if (args.length === 0) {
    args.push(junk(random))
    return
  }
  const [descriptor] = args
  if (descriptor instanceof Float64Array && descriptor.length > 0 && random() < 0.5) {
    // Other numbers than the call has: a few more or less, or another operation.
    if (random() < 0.05) {
      args[0] = Float64Array.from({ length: descriptor.length + integer(random, -7, 7) }, (_, i) => descriptor[i] ?? 1)
      return
    }
    const at = random() < 0.05 ? adapterFields.operation : integer(random, 0, descriptor.length - 1)
    descriptor[at] = number(random, descriptor[at])
    return
  }
  const at = integer(random, 0, args.length - 1)
  const old = args[at]
  if (OF_OPERATIONS.includes(call.name) && random() < 0.15) {
    retype(random, call)
    return
  }
  if (typeof old === 'number' && random() < 0.8) {
    args[at] = number(random, old)
    return
  }
  if (Array.isArray(old) && old.length > 0 && random() < 0.7) {
    const list = old as unknown[]
    const i = integer(random, 0, list.length - 1)
    const element = list[i]
    if (isView(element) && random() < 0.6) list[i] = otherView(random, element)
    else if (isView(element) && random() < 0.3) takeAway(random, element)
    else list[i] = typeof element === 'number' && random() < 0.6 ? number(random, element) : junk(random)
    return
  }
  switch (integer(random, 0, 6)) {
    case 0:
      args[at] = junk(random)
      return
    case 1:
    case 2:
      if (isView(old)) args[at] = otherView(random, old)
      return
    case 3:
      if (isView(old)) takeAway(random, old)
      return
    case 4: {
      const other = integer(random, 0, args.length - 1)
      args[at] = args[other]
      if (random() < 0.5) args[other] = old
      return
    }
    case 5:
      if (random() < 0.5) args.length = integer(random, 0, args.length)
      else args.push(junk(random))
      return
    default:
      // Sequence offsets that do not ascend.
      for (const view of views(call)) {
        if (view instanceof Int32Array && view.length > 0) {
          view[integer(random, 0, view.length - 1)] = pick(random, [-1, 1, 1e6, -(2 ** 31), 2 ** 31 - 1])
        }
      }
  }
}

export function mutate(random: Random, call: Call): void {
  const times = random() < 0.7 ? 1 : integer(random, 2, 4)
  for (let i = 0; i < times; i++) mutateOnce(random, call)
}

// Buffers that measureRoof would take seconds to measure are left out.
const ROOF_BYTES = [
  -1,
  -0.5,
  NaN,
  Infinity,
  -Infinity,
  2 ** 33,
  2 ** 40,
  2 ** 53,
  2 ** 62,
  2 ** 63,
  2 ** 64,
  -(2 ** 63),
]

/** A call of a function with values of the right number and of any kind. Without a CUDA library most of them refuse. */
export function junkCall(random: Random, names: readonly FunctionName[]): Call {
  const name = pick(random, names)
  const args = Array.from({ length: integer(random, 0, 9) }, () => junk(random))
  // The standard streams of this process are not locked by others.
  if (name === 'fileLock' && args.length > 0 && random() < 0.5) args[0] = integer(random, -2, 40)
  if (name === 'measureRoof') {
    args[0] = random() < 0.8 ? 0 : args[0]
    args[1] = random() < 0.8 ? 0 : args[1]
    args[2] = integer(random, -1, 5)
    args[3] = pick(random, ROOF_BYTES)
  }
  return { name, args, blocks: [] }
}
