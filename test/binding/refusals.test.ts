/** What the binding refuses and ensures by itself, without lib/ before it: one test for each kind of mistake. */
import { spawnSync } from 'node:child_process'
import { pbkdf2 } from 'node:crypto'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import {
  adamwFields,
  adamwParameterFields,
  backwardSlots,
  callFields,
  foldFields,
  foldLayerFields,
  forwardSlots,
  linearFields,
  linearSlots,
  slotFields,
} from '../../lib/binding/descriptor.js'
import '../../lib/index.js'
import { type Memory, native } from '../../lib/binding/native.js'
import { packageRoot } from '../../lib/binding/root.js'
import { gc } from '../support/collect.js'
import type { Resizable } from './memory.js'

const { dtype, pool, precision, routing } = native.constants
const fieldsOf = (list: object) => Object.keys(list).length
const [CALL, SLOT] = [fieldsOf(callFields), fieldsOf(slotFields)]
const [tokens, dIn, dOut, rank, experts] = [6, 8, 10, 2, 3]
const OUTPUT = 7

interface Slot {
  memory: Memory
  byteOffset: number
  pitch: number
  dtype: number
}

const matrix = (rows: number, columns: number, fill = 0.5): Slot => ({
  memory: new Float32Array(rows * columns).fill(fill),
  byteOffset: 0,
  pitch: columns,
  dtype: dtype.float32,
})

/** A valid call in float32, with sequences. */
function makeCall(name: 'forward' | 'backward') {
  const numbers: Record<keyof typeof callFields, number> = {
    backend: 0,
    device: 0,
    stream: 0,
    memoryStream: 0,
    pool: 0,
    activation: 0,
    precision: 0,
    activationDtype: dtype.float32,
    parameterDtype: dtype.float32,
    routing: routing.sequence,
    tokens,
    dIn,
    dOut,
    rank,
    experts,
    groups: 2,
    scaling: 1,
  }
  const array = (memory: Memory): Slot => ({ memory, byteOffset: 0, pitch: 0, dtype: dtype.float32 })
  const slots: Record<string, Slot> = {
    x: matrix(tokens, dIn),
    a: matrix(rank, dIn),
    router: matrix(experts, rank),
    b: matrix(experts * rank, dOut),
    hidden: matrix(tokens, rank, OUTPUT),
    probabilities: matrix(tokens, experts, OUTPUT),
    weights: matrix(2, experts, OUTPUT),
    mask: array(new Uint8Array(tokens).fill(1)),
    sequenceOffsets: array(new Int32Array([0, 2, tokens])),
  }
  if (name === 'forward') {
    slots.y = matrix(tokens, dOut, OUTPUT)
    slots.uncheckedOffsets = array(new Int32Array([9, 2, -1]))
  } else {
    slots.dy = matrix(tokens, dOut)
    slots.dx = matrix(tokens, dIn, OUTPUT)
    slots.da = matrix(rank, dIn, OUTPUT)
    slots.dRouter = matrix(experts, rank, OUTPUT)
    slots.db = matrix(experts * rank, dOut, OUTPUT)
  }
  return { name, numbers, slots }
}
type Call = ReturnType<typeof makeCall>

function argumentsOf({ name, numbers, slots }: Call): [Float64Array, ...(Memory | null)[]] {
  const positions: Record<string, number> = name === 'forward' ? forwardSlots : backwardSlots
  const descriptor = new Float64Array(CALL + fieldsOf(positions) * SLOT)
  for (const [field, at] of Object.entries(callFields)) descriptor[at] = numbers[field as keyof typeof callFields]
  const operands = Object.keys(positions).map((slot) => (slots[slot] as Slot | undefined)?.memory ?? null)
  for (const [slot, given] of Object.entries(slots)) {
    const at = CALL + positions[slot] * SLOT
    descriptor[at + slotFields.byteOffset] = given.byteOffset
    descriptor[at + slotFields.pitch] = given.pitch
    descriptor[at + slotFields.dtype] = given.dtype
  }
  return [descriptor, ...operands]
}

function run(call: Call): void {
  native[call.name](...argumentsOf(call))
}

const refusal = (code: string, message: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error

/** The call is refused, and has written nothing. */
function expectRefused(change: (call: Call) => void, name: Call['name'], code: string, message: string): void {
  const call = makeCall(name)
  change(call)
  const contents = () => Object.values(call.slots).map(({ memory }) => structuredClone(memory))
  const before = contents()
  expect(() => {
    run(call)
  }).toThrow(refusal(code, message))
  expect(contents()).toEqual(before)
}

describe('forward and backward', () => {
  test.each(['forward', 'backward'] as const)('a valid call of %s writes', (name) => {
    const call = makeCall(name)
    run(call)
    const { y, dx } = call.slots
    expect(new Set(name === 'forward' ? (y.memory as Float32Array) : (dx.memory as Float32Array))).not.toContain(OUTPUT)
  })

  const half = (of: Slot) => {
    of.memory = new Uint16Array((of.memory as Float32Array).length)
    of.dtype = dtype.bfloat16
  }
  test.each(['x', 'a', 'router', 'b', 'y'])('%s of another type', (slot) => {
    expectRefused(({ slots }) => half(slots[slot]), 'forward', 'ERR_LILY_DTYPE', `${slot} has another dtype`)
  })
  test.each(['dy', 'x', 'a', 'router', 'b', 'dx', 'da', 'dRouter', 'db'])('%s of backward of another type', (slot) => {
    expectRefused(({ slots }) => half(slots[slot]), 'backward', 'ERR_LILY_DTYPE', `${slot} has another dtype`)
  })

  test('a type that does not exist', () => {
    for (const value of [3, -1, 2 ** 32])
      expectRefused(({ slots }) => void (slots.x.dtype = value), 'forward', 'ERR_LILY_DTYPE', 'x has an unknown dtype')
  })

  test('numbers that are not whole, or do not fit', () => {
    for (const value of [NaN, Infinity, 1.5, 2 ** 53 + 2]) {
      const change = ({ numbers }: Call) => void (numbers.rank = value)
      expectRefused(change, 'forward', 'ERR_LILY_ARGUMENT', 'rank is not a whole number')
    }
    // Its low 32 bits are 0.
    const wrapped = ({ numbers }: Call) => void (numbers.pool = 2 ** 32)
    expectRefused(wrapped, 'forward', 'ERR_LILY_ARGUMENT', 'pool must be from')
  })

  test.each([
    ['rows beyond the memory', { pitch: dIn + 1 }, 'ERR_LILY_SHAPE', 'x has no'],
    ['rows that overlap', { pitch: dIn - 1 }, 'ERR_LILY_SHAPE', 'x cannot have'],
    ['rows beyond every address', { pitch: 2 ** 52 }, 'ERR_LILY_SHAPE', 'x cannot have'],
    ['an offset before the memory', { byteOffset: -4 }, 'ERR_LILY_SHAPE', 'x has no'],
    ['an offset behind the memory', { byteOffset: 2 ** 40 }, 'ERR_LILY_SHAPE', 'x has no'],
  ])('%s', (_, change, code, message) => {
    expectRefused(({ slots }) => void Object.assign(slots.x, change), 'forward', code, message)
  })

  test('token routing with a pool of logits', () => {
    const change = ({ numbers }: Call) =>
      void Object.assign(numbers, { routing: routing.token, groups: 1, pool: pool.logits })
    expectRefused(change, 'forward', 'ERR_LILY_ARGUMENT', 'token routing has no pool of logits')
  })

  const shorten = (of: Slot) => void (of.memory = (of.memory as Float32Array).slice(1))
  const INPUTS = ['x', 'a', 'router', 'b', 'hidden', 'probabilities', 'weights', 'mask', 'sequenceOffsets']
  test.each([
    ...[...INPUTS, 'y', 'uncheckedOffsets'].map((slot) => ['forward', slot] as const),
    ...[...INPUTS, 'dy', 'dx', 'da', 'dRouter', 'db'].map((slot) => ['backward', slot] as const),
  ])('%s: %s that is one element too short', (name, slot) => {
    expectRefused(({ slots }) => shorten(slots[slot]), name, 'ERR_LILY_SHAPE', `${slot} has no`)
  })

  test('forward: weights of fixed routing that are one element too short', () => {
    const change = ({ numbers, slots }: Call) => {
      numbers.routing = routing.fixed
      shorten(slots.weights)
    }
    expectRefused(change, 'forward', 'ERR_LILY_SHAPE', 'weights has no')
  })

  test.each(['forward', 'backward'] as const)('%s: hidden of precision high has float32 numbers', (name) => {
    const change = ({ numbers, slots }: Call) => {
      Object.assign(numbers, { activationDtype: dtype.bfloat16, precision: precision.high })
      for (const slot of ['x', 'y', 'dy', 'dx']) if (slot in slots) half(slots[slot])
    }
    const call = makeCall(name)
    change(call)
    run(call)
    const short = (call: Call) => {
      change(call)
      shorten(call.slots.hidden)
    }
    expectRefused(short, name, 'ERR_LILY_SHAPE', 'hidden has no')
  })

  const toLora = ({ numbers, slots }: Call) => {
    Object.assign(numbers, { routing: routing.none, experts: 1, groups: 1 })
    for (const slot of ['router', 'probabilities', 'weights', 'mask', 'sequenceOffsets', 'dRouter']) {
      Reflect.deleteProperty(slots, slot)
    }
    for (const slot of ['b', 'db']) if (slot in slots) slots[slot] = matrix(dOut, rank)
  }
  test.each([
    ['forward', 'b'],
    ['backward', 'b'],
    ['backward', 'db'],
  ] as const)('LoRA, %s: %s has d_out rows of r', (name, slot) => {
    const call = makeCall(name)
    toLora(call)
    run(call)
    const short = (call: Call) => {
      toLora(call)
      shorten(call.slots[slot])
    }
    expectRefused(short, name, 'ERR_LILY_SHAPE', `${slot} has no`)
  })

  test.each<[string, Partial<Call['numbers']>, string]>([
    ['more tokens than an int32 counts', { tokens: 2 ** 31 }, 'tokens must be from 0'],
    ['a negative number of tokens', { tokens: -1 }, 'tokens must be from 0'],
    ['no d_in', { dIn: 0 }, 'd_in must be from 1'],
    ['a d_in beyond every address', { dIn: 2 ** 41 }, 'd_in must be from 1'],
    ['no d_out', { dOut: 0 }, 'd_out must be from 1'],
    ['a d_out beyond every address', { dOut: 2 ** 41 }, 'd_out must be from 1'],
    ['no rank', { rank: 0 }, 'rank must be from 1'],
    ['a rank above 4096', { rank: 4097 }, 'rank must be from 1'],
    ['no experts', { experts: 0 }, 'experts must be from 1'],
    ['a negative number of groups', { groups: -1 }, 'groups must be from 0'],
    ['more groups than an int32 counts', { groups: 2 ** 31 }, 'groups must be from 0'],
    ['tokens without groups', { groups: 0 }, 'groups must be at least 1'],
    ['two groups of batch routing', { routing: routing.batch }, 'this routing must have one group'],
    ['two groups of token routing', { routing: routing.token }, 'this routing must have one group'],
    ['LoRA with experts', { routing: routing.none, groups: 1 }, 'LoRA must have one expert'],
    ['a routing that does not exist', { routing: 6 }, 'unknown routing'],
    ['a pool that does not exist', { pool: 2 }, 'unknown pool'],
    ['an activation that does not exist', { activation: -1 }, 'unknown activation'],
    ['a precision that does not exist', { precision: 3 }, 'unknown precision'],
    ['a type that does not exist', { activationDtype: 3 }, 'unknown dtype'],
    ['parameters in 16 bits under float32', { parameterDtype: dtype.float16 }, 'the dtype of the parameters'],
  ])('%s', (_, numbers, message) => {
    for (const name of ['forward', 'backward'] as const) {
      expectRefused((call) => void Object.assign(call.numbers, numbers), name, 'ERR_LILY_ARGUMENT', message)
    }
  })

  // Its weights are not there: what lies at their address must not be multiplied by its D = 0.
  test.each(['sequence', 'fixed'] as const)('no sequences of %s routing give gradients of zero', (name) => {
    const call = makeCall('backward')
    Object.assign(call.numbers, { tokens: 0, groups: 0, routing: routing[name] })
    call.slots.weights.memory = new Float32Array(experts).fill(NaN).subarray(0, 0)
    call.slots.sequenceOffsets.memory = new Int32Array([0])
    run(call)
    const { da, dRouter, db } = call.slots
    for (const { memory } of name === 'fixed' ? [da, db] : [da, dRouter, db]) {
      expect(new Set(memory as Float32Array)).toEqual(new Set([0]))
    }
  })

  test('elements at odd addresses', () => {
    const change = ({ slots }: Call) => {
      const bytes = new Uint8Array(4 * tokens * dIn + 1)
      Object.assign(slots.x, { memory: bytes, byteOffset: 1 })
    }
    expectRefused(change, 'forward', 'ERR_LILY_ARGUMENT', 'x must begin at a multiple of 4 bytes')
  })

  test('the pitch of a single row may be anything', () => {
    for (const pitch of [0, -5, 2 ** 40]) {
      const call = makeCall('forward')
      Object.assign(call.numbers, { tokens: 1, groups: 1 })
      call.slots.sequenceOffsets.memory = new Int32Array([0, 1])
      for (const slot of ['x', 'y']) call.slots[slot].pitch = pitch
      run(call)
    }
  })

  test.each([[[0, 7, tokens]], [[0, -1, tokens]], [[1, 2, tokens]], [[0, 2, tokens - 1]]])(
    'sequence offsets %j',
    (offsets) => {
      const change = ({ slots }: Call) => void (slots.sequenceOffsets.memory = new Int32Array(offsets))
      expectRefused(change, 'forward', 'ERR_LILY_ARGUMENT', 'sequenceOffsets do not ascend')
    },
  )

  test('more experts than the kernels have room for', () => {
    const change = ({ numbers, slots }: Call) => {
      numbers.experts = 65
      slots.router = matrix(65, rank)
      slots.b = matrix(65 * rank, dOut)
      slots.probabilities = matrix(tokens, 65, OUTPUT)
      slots.weights = matrix(2, 65, OUTPUT)
    }
    expectRefused(change, 'forward', 'ERR_LILY_ARGUMENT', 'experts must be from 1 to 64')
  })

  test('a deferred gradient beside db', () => {
    const change = ({ slots }: Call) => void (slots.deferredDb = matrix(2 * rank, dOut, OUTPUT))
    expectRefused(change, 'backward', 'ERR_LILY_ARGUMENT', 'deferredDb')
  })

  // One matrix per group, or one per expert if there are more groups than experts.
  test.each([
    ['two groups', 2, 2],
    ['more groups than experts', 5, experts],
  ])('a deferred gradient of %s', (_, groups, matrices) => {
    const change = (rows: number) => (call: Call) => {
      const { numbers, slots } = call
      numbers.groups = groups
      slots.weights = matrix(groups, experts)
      slots.sequenceOffsets.memory = Int32Array.from({ length: groups + 1 }, (_, g) => (g < groups ? g : tokens))
      Reflect.deleteProperty(slots, 'db')
      slots.deferredDb = matrix(rows, dOut, OUTPUT)
    }
    const call = makeCall('backward')
    change(matrices * rank)(call)
    run(call)
    expect(new Set(call.slots.deferredDb.memory as Float32Array)).not.toContain(OUTPUT)
    expectRefused(change(matrices * rank - 1), 'backward', 'ERR_LILY_SHAPE', 'deferredDb has no')
  })

  test('a backend and a device that cannot exist', () => {
    for (const backend of [2, -1, 0.5]) {
      expectRefused(({ numbers }) => void (numbers.backend = backend), 'forward', 'ERR_LILY_ARGUMENT', 'backend')
    }
    for (const device of [1, -1, 2 ** 32]) {
      expectRefused(({ numbers }) => void (numbers.device = device), 'forward', 'ERR_LILY_ARGUMENT', 'device')
    }
  })

  test('a descriptor that is too short', () => {
    const operands = new Array<null>(10).fill(null)
    for (const descriptor of [new Float64Array(56), new Float32Array(57), [], null]) {
      expect(() => {
        native.forward(descriptor as Float64Array, ...operands)
      }).toThrow('descriptor')
    }
  })
})

// V8 may collect an array that only the call refers to, and free its memory, while the call waits for a thread.
test.each(['forward', 'backward'] as const)('%sAsync holds its operands until it ends', async (name) => {
  const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4)
  const busy = Array.from({ length: threads }, () => promisify(pbkdf2)('', '', 200_000, 8, 'sha512'))
  let isPending = true
  const start = () => {
    const call = makeCall(name)
    const held = Object.values(call.slots).map(({ memory }) => new WeakRef(memory as object))
    const done = native[`${name}Async`](...argumentsOf(call)).finally(() => (isPending = false))
    return { held, done }
  }
  const { held, done } = start()
  await new Promise(setImmediate)
  gc()
  expect(isPending).toBe(true)
  expect(held.filter((operand) => operand.deref() === undefined)).toEqual([])
  await Promise.all([...busy, done])
  await new Promise(setImmediate)
  gc()
  expect(held.filter((operand) => operand.deref() !== undefined)).toEqual([])
})

describe('linear', () => {
  const SLOTS = Object.keys(linearSlots)
  interface Layer {
    numbers: Record<string, number>
    slots: Record<string, Slot>
  }
  const makeLayer = (transposed: 0 | 1): Layer => ({
    numbers: {
      transposed,
      precision: 0,
      activationDtype: dtype.float32,
      parameterDtype: dtype.float32,
      tokens,
      dIn,
      dOut,
    },
    slots: {
      x: matrix(tokens, transposed === 1 ? dOut : dIn),
      weight: matrix(dOut, dIn),
      ...(transposed === 1 ? {} : { bias: matrix(1, dOut) }),
      y: matrix(tokens, transposed === 1 ? dIn : dOut, OUTPUT),
    },
  })
  const argumentsOf = ({ numbers, slots }: Layer): [Float64Array, ...Memory[]] => {
    const fields = fieldsOf(linearFields)
    const descriptor = new Float64Array(fields + SLOTS.length * SLOT)
    for (const [name, value] of Object.entries(numbers)) descriptor[linearFields[name as 'tokens']] = value
    for (const [name, slot] of Object.entries(slots)) {
      const at = fields + linearSlots[name as 'x'] * SLOT
      descriptor[at + slotFields.byteOffset] = slot.byteOffset
      descriptor[at + slotFields.pitch] = slot.pitch
      descriptor[at + slotFields.dtype] = slot.dtype
    }
    return [descriptor, ...SLOTS.map((name) => (slots[name] as Slot | undefined)?.memory ?? null)]
  }
  const outputOf = ({ slots }: Layer) => new Set(slots.y.memory as Float32Array)

  test.each([0, 1] as const)('a valid call writes, transposed %d', (transposed) => {
    const layer = makeLayer(transposed)
    native.linear(...argumentsOf(layer))
    expect(outputOf(layer)).not.toContain(OUTPUT)
  })

  const short = (of: Slot) => void (of.memory = (of.memory as Float32Array).slice(1))
  const half = (of: Slot) => {
    of.memory = new Uint16Array((of.memory as Float32Array).length)
    of.dtype = dtype.bfloat16
  }
  test.each(['x', 'weight', 'bias', 'y'])('%s that is too short, or of another type', (slot) => {
    for (const [change, code, message] of [
      [short, 'ERR_LILY_SHAPE', `${slot} has no`],
      [half, 'ERR_LILY_DTYPE', `${slot} has another dtype`],
    ] as const) {
      const layer = makeLayer(0)
      change(layer.slots[slot])
      const before = structuredClone(layer.slots.y.memory)
      expect(() => {
        native.linear(...argumentsOf(layer))
      }).toThrow(refusal(code, message))
      expect(() => native.linearAsync(...argumentsOf(layer))).toThrow(refusal(code, message))
      expect(layer.slots.y.memory).toEqual(before)
    }
  })

  test('a bias of the backward direction, and a direction that does not exist', () => {
    const layer = makeLayer(1)
    layer.slots.bias = matrix(1, dOut)
    expect(() => {
      native.linear(...argumentsOf(layer))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'bias is for the forward direction'))
    layer.numbers.transposed = 2
    expect(() => {
      native.linear(...argumentsOf(layer))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'transposed must be 0 or 1'))
  })

  test('a packed weight that is too short', () => {
    const layer = makeLayer(0)
    const bytes = native.linearPackedBytes(...argumentsOf(layer))
    expect(bytes).toBeGreaterThanOrEqual(4 * dIn * dOut)
    layer.slots.packed = { ...matrix(1, 1), memory: new Float32Array(bytes / 4 - 1) }
    for (const name of ['linear', 'linearPack'] as const) {
      expect(() => {
        native[name](...argumentsOf(layer))
      }).toThrow(refusal('ERR_LILY_SHAPE', 'packed has no'))
    }
    expect(outputOf(layer)).toEqual(new Set([OUTPUT]))
  })

  test('a packed weight at an odd address', () => {
    const layer = makeLayer(0)
    const bytes = native.linearPackedBytes(...argumentsOf(layer))
    layer.slots.packed = { ...matrix(1, 1), memory: new Uint8Array(bytes + 4), byteOffset: 2 }
    for (const name of ['linear', 'linearPack'] as const) {
      expect(() => {
        native[name](...argumentsOf(layer))
      }).toThrow(refusal('ERR_LILY_ARGUMENT', 'packed must begin at a multiple of 4 bytes'))
    }
    expect(outputOf(layer)).toEqual(new Set([OUTPUT]))
  })

  test('a packed weight that a call does not use is not written', () => {
    const layer = makeLayer(0)
    Object.assign(layer.numbers, { activationDtype: dtype.float16, parameterDtype: dtype.float16 })
    layer.slots.weight = { ...layer.slots.weight, memory: new Uint16Array(dOut * dIn), dtype: dtype.float16 }
    const packed = new Float32Array(64).fill(OUTPUT)
    layer.slots.packed = { ...matrix(1, 1), memory: packed.subarray(0, 1) }
    expect(native.linearPackedBytes(...argumentsOf(layer))).toBe(0)
    native.linearPack(...argumentsOf(layer))
    expect(new Set(packed)).toEqual(new Set([OUTPUT]))
  })

  test('the packed size of a weight that is not there', () => {
    const layer = makeLayer(0)
    Object.assign(layer.numbers, { dIn: 2 ** 40, dOut: 2 ** 40 })
    layer.slots.weight.pitch = 2 ** 40
    expect(() => native.linearPackedBytes(...argumentsOf(layer))).toThrow(refusal('ERR_LILY_SHAPE', 'weight'))
  })
})

/** An array whose first read of an element runs `get` before it returns the element. */
function withGetter<T>(array: T[], at: number, get: () => void): T[] {
  const element = array[at]
  Object.defineProperty(array, at, {
    get() {
      get()
      return element
    },
  })
  return array
}

/** A resizable array: when it shrinks, its memory is gone at once. */
function resizable(length: number): [Float32Array, () => void] {
  const Buffer = ArrayBuffer as unknown as new (bytes: number, options: { maxByteLength: number }) => Resizable
  const buffer = new Buffer(4 * length, { maxByteLength: 4 * length })
  return [
    new Float32Array(buffer, 0, length),
    () => {
      buffer.resize(0)
    },
  ]
}

describe('getters', () => {
  const foldNumbers = () => {
    const numbers = new Float64Array(fieldsOf(foldFields) + SLOT + fieldsOf(foldLayerFields))
    Object.entries({ dOut, rank, experts: 1 }).forEach(([field, value]) => {
      numbers[foldFields[field as 'dOut']] = value
    })
    numbers[fieldsOf(foldFields) + slotFields.pitch] = dOut
    numbers[fieldsOf(foldFields) + SLOT + foldLayerFields.partials] = 1
    return numbers
  }

  test('fold: a getter that shrinks db', () => {
    const [db, shrink] = resizable(rank * dOut)
    const partials = withGetter([new Float32Array(rank * dOut)], 0, shrink)
    expect(() => {
      native.fold(foldNumbers(), db, partials, [new Float32Array(1)])
    }).toThrow(refusal('ERR_LILY_SHAPE', 'db has no'))
  })

  test('fold: a getter that shrinks the array that another getter returned', () => {
    const [partial, shrink] = resizable(rank * dOut)
    const db = new Float32Array(rank * dOut).fill(OUTPUT)
    const weights = withGetter([new Float32Array(1)], 0, shrink)
    expect(() => {
      native.fold(foldNumbers(), db, [partial], weights)
    }).toThrow(refusal('ERR_LILY_SHAPE', 'a deferred gradient has no'))
    expect(new Set(db)).toEqual(new Set([OUTPUT]))
  })

  test('fold: lists of other lengths', () => {
    for (const weights of [[], [null, null]]) {
      expect(() => {
        native.fold(foldNumbers(), new Float32Array(rank * dOut), [new Float32Array(rank * dOut)], weights)
      }).toThrow('weights must be an array of 1 elements')
    }
    expect(() => {
      native.fold(foldNumbers(), null, new Array<null>(2 ** 32 - 1), [])
    }).toThrow('the descriptor must have')
  })

  test('fold: a number of partial sums that its memory or the experts do not have', () => {
    const db = new Float32Array(2 * rank * dOut).fill(OUTPUT)
    const numbers = foldNumbers()
    numbers[foldFields.experts] = 2
    const partials = (count: number) => (numbers[fieldsOf(foldFields) + SLOT + foldLayerFields.partials] = count)
    // Without weights there is a sum for each expert.
    for (const [count, weights] of [
      [1, null],
      [3, null],
      [-1, new Float32Array(2)],
      [65, new Float32Array(130)],
    ] as const) {
      partials(count)
      expect(() => {
        native.fold(numbers, db, [new Float32Array(65 * rank * dOut)], [weights])
      }).toThrow(refusal('ERR_LILY_ARGUMENT', 'the number of partials'))
    }
    partials(2)
    expect(() => {
      native.fold(numbers, db, [new Float32Array(rank * dOut)], [null])
    }).toThrow(refusal('ERR_LILY_SHAPE', 'a deferred gradient has no'))
    expect(() => {
      native.fold(numbers, db, [new Float32Array(2 * rank * dOut)], [new Float32Array(3)])
    }).toThrow(refusal('ERR_LILY_SHAPE', 'weights of a deferred gradient has no'))
    expect(new Set(db)).toEqual(new Set([OUTPUT]))
  })

  const adamwNumbers = (step = 1) => {
    const numbers = new Float64Array(fieldsOf(adamwFields) + fieldsOf(adamwParameterFields))
    Object.assign(numbers, { [adamwFields.step]: step, [adamwFields.beta1]: 0.9, [adamwFields.beta2]: 0.999 })
    numbers[fieldsOf(adamwFields) + adamwParameterFields.elements] = 4
    numbers[fieldsOf(adamwFields) + adamwParameterFields.lr] = 0.1
    return numbers
  }
  const arrays = () => Array.from({ length: 4 }, () => new Float32Array(4).fill(OUTPUT))

  test('adamw: a getter that shrinks the norm, a value, or the descriptor', () => {
    const [norm, shrinkNorm] = resizable(1)
    expect(() => {
      native.adamw(adamwNumbers(), norm, null, withGetter(arrays(), 3, shrinkNorm))
    }).toThrow(refusal('ERR_LILY_SHAPE', 'norm has no'))

    const [value, shrinkValue] = resizable(4)
    expect(() => {
      native.adamw(adamwNumbers(), null, null, withGetter([value, ...arrays().slice(1)], 3, shrinkValue))
    }).toThrow(refusal('ERR_LILY_SHAPE', 'value has no'))

    const numbers = adamwNumbers()
    const list = arrays()
    const detach = () => void structuredClone(null, { transfer: [numbers.buffer] })
    expect(() => {
      native.adamw(numbers, null, null, withGetter(list, 2, detach))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'the descriptor must have'))
    expect(new Set(list[0])).toEqual(new Set([OUTPUT]))
  })

  test.each([0, -1, 0.5, NaN])('adamw: step %d', (step) => {
    const list = arrays()
    expect(() => {
      native.adamw(adamwNumbers(step), null, null, list)
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'step'))
    expect(new Set(list.flatMap((array) => [...array]))).toEqual(new Set([OUTPUT]))
  })

  test('adamw: a gradient in the other type of 16 bits', () => {
    const numbers = adamwNumbers()
    numbers[fieldsOf(adamwFields) + adamwParameterFields.valueDtype] = dtype.bfloat16
    numbers[fieldsOf(adamwFields) + adamwParameterFields.gradDtype] = dtype.float16
    const [value, grad, ...moments] = [new Uint16Array(4), new Uint16Array(4), ...arrays().slice(2)]
    expect(() => {
      native.adamw(numbers, null, null, [value, grad, ...moments])
    }).toThrow(refusal('ERR_LILY_DTYPE', "a gradient has its value's dtype or float32"))
    expect(new Set(moments.flatMap((moment) => [...moment]))).toEqual(new Set([OUTPUT]))
  })

  test('adamw: other numbers of arrays', () => {
    expect(() => {
      native.adamw(adamwNumbers(), null, null, arrays().slice(1))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'four arrays'))
  })
})

describe('other functions', () => {
  test.each([-1, -0.5, NaN, Infinity, 2 ** 33, 2 ** 53, 2 ** 64])('measureRoof of %d bytes', (bytes) => {
    expect(() => native.measureRoof(0, 0, 1, bytes)).toThrow(refusal('ERR_LILY_ARGUMENT', 'byteLength'))
  })

  test('a roof, a backend and a device that do not exist', () => {
    expect(() => native.measureRoof(0, 0, 5, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'roof'))
    expect(() => native.measureRoof(7, 0, 1, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'backend'))
    expect(() => native.measureRoof(0, 1, 1, 64)).toThrow(refusal('ERR_LILY_ARGUMENT', 'device'))
    expect(() => native.poolStatistics(0, 1, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'device'))
  })

  test('sizes of matrices', () => {
    const [x, l] = [new Float64Array(6), new Float64Array(4)]
    for (const r of [0, -1, 1.5, NaN, 4097, 2 ** 62]) {
      expect(() => {
        native.gramFactor(x, r, 3, l)
      }).toThrow(refusal('ERR_LILY_ARGUMENT', 'the size of a matrix'))
    }
    expect(() => {
      native.gramFactor(x, 2, 4, l)
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 64 bytes'))
    expect(() => {
      native.gramFactor(x, 2, 3, l.subarray(1))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 32 bytes'))
    expect(() => {
      native.congruenceEigenvalues(l, x, 2, 3, new Float64Array(1))
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'a matrix must be a typed array of at least 16 bytes'))
    const odd = new Uint8Array(new ArrayBuffer(40), 4) as unknown as Float64Array
    expect(() => {
      native.gramFactor(x, 2, 3, odd)
    }).toThrow(refusal('ERR_LILY_ARGUMENT', 'aligned to 8'))
  })

  test('files that are not open', () => {
    for (const file of [NaN, -1, 0.5, 2 ** 32]) {
      expect(() => native.fileLock(file, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'fd'))
    }
    expect(() => native.fileLock(2 ** 31 - 1, false)).toThrow(refusal('ERR_LILY_ARGUMENT', 'fd is not an open file'))
  })

  // With no threads there is no scratch memory for a thread.
  test('every computation with an invalid LILY_NUM_THREADS', () => {
    const program = `
      const native = require('node-gyp-build')(${JSON.stringify(packageRoot)})
      const m = new Float64Array(4)
      for (const call of [
        () => native.gramFactor(m, 2, 2, new Float64Array(4)),
        () => native.congruenceEigenvalues(m, m, 2, 2, new Float64Array(2)),
        () => native.measureRoof(0, 0, 1, 64),
      ]) try { call(); console.log('ran') } catch (error) { console.log(error.code) }`
    const { stdout } = spawnSync(process.execPath, ['-e', program], {
      cwd: packageRoot,
      env: { ...process.env, LILY_NUM_THREADS: '0' },
      encoding: 'utf8',
    })
    expect(stdout.trim().split('\n')).toEqual(new Array<string>(3).fill('ERR_LILY_BACKEND_UNAVAILABLE'))
  })
})
