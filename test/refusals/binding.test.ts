/**
 * What the reader of calls refuses by itself, without lib/ before it: one test for each kind of mistake.
 *
 * @project cpu wasm @asan
 */
import { describe, expect, test } from 'vitest'
import '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { access, dtype, pool, precision, routing, slotFields, operation } from '../../lib/binding/slots.js'
import { bytesOf } from '../binding/encoding.js'
import {
  argumentsOf,
  type Call,
  dIn,
  dOut,
  expectRefused,
  experts,
  holderOf,
  makeCall,
  type Operand,
  OPERATIONS,
  type OperationName,
  OUTPUT,
  rank,
  refusal,
  slotsOf,
  tokens,
} from '../binding/fixed-calls.js'
import type { Resizable } from '../binding/memory.js'

/** A call with one operand changed. */
function changed(name: OperationName, slot: string, change: (operand: Operand) => void): Call {
  const call = makeCall(name)
  change(holderOf(call, slot)[slot])
  return call
}

const lengthOf = ({ memory }: Operand) => (memory as Float32Array).length

describe.each(OPERATIONS)('%s', (name) => {
  const slots = slotsOf(name).filter(({ name: slot }) => slot !== 'deferredDb')
  const cases = slots.map((slot) => [slot.name, slot] as const)

  test('a valid call writes', () => {
    const call = makeCall(name)
    native.run(...argumentsOf(call))
    for (const { name: slot, use } of slots) {
      const { memory } = holderOf(call, slot)[slot]
      const contents = [...(memory as Float32Array)]
      // The end of a packed weight may be room for alignment.
      if (use === 'output') expect(slot === 'packed' ? contents.slice(0, dIn) : contents, slot).not.toContain(OUTPUT)
    }
  })

  test.each(cases)('%s that is one element too short', async (slot) => {
    const call = changed(name, slot, (of) => (of.memory = (of.memory as Float32Array).slice(1)))
    await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} has no`)
  })

  test.each(cases)('%s of another type', async (slot, { type }) => {
    const call = changed(name, slot, (of) => {
      of.dtype = type === 'any' ? dtype.int32 : dtype.bfloat16
      of.memory = type === 'any' ? new Int32Array(lengthOf(of)) : new Uint16Array(lengthOf(of))
    })
    await expectRefused(call, 'ERR_LILY_DTYPE', `${slot} has another dtype`)
  })

  test.each(cases)('%s of a type that does not exist', async (slot) => {
    for (const value of [5, -1, 2 ** 32]) {
      const call = changed(name, slot, (of) => (of.dtype = value))
      await expectRefused(call, 'ERR_LILY_DTYPE', `${slot} has an unknown dtype`)
    }
  })

  // The rows of partials, and the elements of a value, say what the other operands of the item must have.
  test.each(cases)('%s of other sizes', async (slot, { type }) => {
    for (const size of ['rows', 'columns'] as const) {
      const call = changed(name, slot, (of) => {
        of[size]++
        of.pitch = of.columns
        const length = of.rows * of.columns
        of.memory = type === 'int32' ? new Int32Array(length) : new Float32Array(length).fill(OUTPUT)
      })
      const decides = size === 'rows' ? { partials: 'weights' } : { value: 'grad' }
      const other = (decides as Record<string, string | undefined>)[slot] ?? slot
      await expectRefused(call, 'ERR_LILY_SHAPE', `${other} must have `)
    }
  })

  test.each(cases)('%s with an access that does not exist, or that the call does not have', async (slot, { use }) => {
    const allowed = { read: 'read', copy: 'read', output: 'write or add', update: 'read or add' }[use]
    for (const value of [4, -1, 2 ** 32, use === 'output' ? access.read : access.write]) {
      const call = changed(name, slot, (of) => (of.access = value))
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} must have access ${allowed}, not ${value}`)
    }
  })

  test.each(cases)('%s with numbers that are not whole', async (slot) => {
    for (const field of Object.keys(slotFields) as (keyof typeof slotFields)[]) {
      for (const value of [NaN, Infinity, 1.5, 2 ** 53 + 2]) {
        // The list's own error of a number of partials comes first.
        if (slot === 'partials' && field === 'rows' && value !== 1.5) continue
        const call = changed(name, slot, (of) => (of[field] = value))
        await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot}: its ${field} is not a whole number`)
      }
    }
  })

  test.each(cases)('%s that is no typed array', async (slot) => {
    for (const memory of [null, undefined, 8n, {}, [1, 2], new DataView(new ArrayBuffer(8)), new ArrayBuffer(8)]) {
      const call = changed(name, slot, (of) => (of.memory = memory as Float32Array))
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} is not a typed array`)
    }
  })

  test.each(cases)('%s outside of its memory', async (slot, { type }) => {
    for (const [change, message] of [
      [{ byteOffset: -4 }, 'has no'],
      [{ byteOffset: 2 ** 40 }, 'has no'],
      [{ byteOffset: 4 }, 'has no'],
    ] as const) {
      const call = changed(name, slot, (of) => Object.assign(of, change))
      await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} ${message}`)
    }
    const { rows, pitch } = holderOf(makeCall(name), slot)[slot]
    if (rows === 1) return
    for (const [value, message] of [
      [pitch + 1, type === 'hidden' || type === 'float32' ? '' : 'has no'],
      [pitch - 1, 'cannot have'],
      [2 ** 52, 'cannot have'],
    ] as const) {
      const call = changed(name, slot, (of) => (of.pitch = value))
      await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} ${message}`)
    }
  })

  test.each(cases)('%s at an odd address', async (slot) => {
    const bytes = bytesOf(holderOf(makeCall(name), slot)[slot].dtype)
    if (bytes === 1) return
    const call = changed(name, slot, (of) => {
      of.memory = new Uint8Array(bytes * lengthOf(of) + 1)
      of.byteOffset = 1
    })
    // The offsets of sequences are copied to where they are aligned, but not to the byte.
    await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} must begin at a multiple of ${bytes} bytes`)
  })

  test.each(cases)('%s whose memory is gone', async (slot) => {
    const Buffer = ArrayBuffer as unknown as new (bytes: number, options: { maxByteLength: number }) => Resizable
    const detached = changed(name, slot, ({ memory }) => {
      structuredClone(null, { transfer: [(memory as Float32Array).buffer as ArrayBuffer] })
    })
    const resized = (bytes: (before: number) => number, tracks: boolean) =>
      changed(name, slot, (of) => {
        const { byteLength } = of.memory as Float32Array
        const buffer = new Buffer(byteLength, { maxByteLength: byteLength })
        of.memory = tracks ? new Uint8Array(buffer) : new Uint8Array(buffer, 0, byteLength)
        buffer.resize(bytes(byteLength))
      })
    for (const call of [
      detached,
      resized(() => 0, false),
      resized((before) => before - 1, false),
      resized((before) => before - 1, true),
    ]) {
      await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} has no`)
    }
  })

  const required: Record<OperationName, readonly string[]> = {
    forward: ['x', 'a', 'router', 'b', 'y', 'sequenceOffsets', 'draw'],
    backward: ['dy', 'x', 'a', 'router', 'b', 'hidden', 'probabilities', 'weights', 'sequenceOffsets', 'draw'],
    linear: ['x', 'weight', 'y'],
    pack: ['weight', 'packed'],
    attention: ['q', 'k', 'v', 'y'],
    attentionBackward: ['dy', 'q', 'k', 'v', 'y', 'statistics'],
    fold: ['db', 'partials'],
    draw: [],
    adamw: ['value', 'grad', 'expAvg', 'expAvgSq'],
    matmul: ['a', 'b', 'y'],
    elementwise: ['a', 'b', 'y'],
    forwardRows: ['x', 'y', 'index', 'a', 'router', 'b'],
    backwardRows: ['dy', 'x', 'index', 'a', 'router', 'b', 'hidden', 'probabilities', 'weights'],
  }
  test.each(cases)('%s that is not given', async (slot) => {
    const call = changed(name, slot, (of) => (of.access = access.none))
    if (required[name].includes(slot)) {
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} is not given`)
      return
    }
    const { memory } = holderOf(call, slot)[slot]
    const before = [...(memory as Float32Array)]
    native.run(...argumentsOf(call))
    expect([...(memory as Float32Array)]).toEqual(before)
  })

  test('an operation that does not exist, and other numbers of operands', () => {
    const [numbers, ...operands] = argumentsOf(makeCall(name))
    const refused = (numbers: Float64Array, given: typeof operands) => {
      expect(() => {
        native.run(numbers, ...given)
      }).toThrow(refusal('ERR_LILY_ARGUMENT', `the descriptor is of no operation with ${given.length} operands`))
    }
    for (const value of [Object.keys(operation).length, -1, 0.5, NaN, Infinity, 2 ** 32])
      refused(Float64Array.of(value, ...numbers.slice(1)), operands)
    refused(numbers, operands.slice(1))
    refused(numbers, [...operands, null])
    refused(numbers, [])
  })

  test('a descriptor that is too short, gone, or none', () => {
    const [numbers, ...operands] = argumentsOf(makeCall(name))
    const detached = numbers.slice()
    structuredClone(null, { transfer: [detached.buffer] })
    const short = [numbers.subarray(0, -1), new Float64Array(0), detached, new Float32Array(numbers)]
    for (const descriptor of [...short, [...numbers], null, undefined, 'x']) {
      for (const run of [native.run, native.packedBytes]) {
        expect(() => run(descriptor as Float64Array, ...operands)).toThrow('descriptor')
      }
    }
  })
})

describe('forward and backward', () => {
  test('numbers that are not whole, or do not fit', async () => {
    for (const value of [NaN, Infinity, 1.5, 2 ** 53 + 2]) {
      const call = makeCall('forward')
      call.numbers.rank = value
      await expectRefused(call, 'ERR_LILY_ARGUMENT', 'rank is not a whole number')
    }
    // Its low 32 bits are 0.
    const call = makeCall('forward')
    call.numbers.pool = 2 ** 32
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'pool must be from')
  })

  test('token routing with a pool of logits', async () => {
    const call = makeCall('forward')
    Object.assign(call.numbers, { routing: routing.token, groups: 1, pool: pool.logits })
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'token routing has no pool of logits')
  })

  const WITHOUT_ROUTER = ['router', 'probabilities', 'dRouter']
  test('forward: weights of fixed routing that are one element too short, or not given', async () => {
    const call = makeCall('forward', { routing: routing.fixed }, WITHOUT_ROUTER)
    const { weights } = call.slots
    weights.memory = (weights.memory as Float32Array).slice(1)
    await expectRefused(call, 'ERR_LILY_SHAPE', 'weights has no')
    weights.access = access.none
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'weights is not given')
  })

  test.each(['forward', 'backward'] as const)('%s: hidden of precision high has float32 numbers', async (name) => {
    const call = makeCall(name, { activationDtype: dtype.bfloat16, precision: precision.high })
    native.run(...argumentsOf(call))
    const { hidden } = call.slots
    expect(hidden.dtype).toBe(dtype.float32)
    hidden.memory = (hidden.memory as Float32Array).slice(1)
    await expectRefused(call, 'ERR_LILY_SHAPE', 'hidden has no')
    hidden.dtype = dtype.bfloat16
    await expectRefused(call, 'ERR_LILY_DTYPE', 'hidden has another dtype')
  })

  test.each(['forward', 'backward'] as const)('%s without dropout has no draw', async (name) => {
    await expectRefused(makeCall(name, { dropout: 0 }), 'ERR_LILY_ARGUMENT', 'draw is not an operand of such a call')
  })

  test('a draw, which the cpu backend does not take', async () => {
    await expectRefused(makeCall('draw'), 'ERR_LILY_DEVICE', 'this backend takes no draws')
  })

  test('dWeights of fixed routing, and of another one', async () => {
    const call = makeCall('backward', { routing: routing.fixed }, WITHOUT_ROUTER)
    native.run(...argumentsOf(call))
    const { dWeights } = call.slots
    expect([...(dWeights.memory as Float32Array)]).not.toContain(OUTPUT)
    dWeights.memory = (dWeights.memory as Float32Array).slice(1)
    await expectRefused(call, 'ERR_LILY_SHAPE', 'dWeights has no')
    const other = makeCall('backward')
    other.slots.dWeights = dWeights
    await expectRefused(other, 'ERR_LILY_ARGUMENT', 'dWeights is not an operand of such a call')
  })

  test.each(['forward', 'backward'] as const)('%s: the logits of a learned mixture are a column', async (name) => {
    const without = ['probabilities', 'mask', 'sequenceOffsets', 'uncheckedOffsets']
    const call = makeCall(name, { routing: routing.learned, groups: 1 }, without)
    native.run(...argumentsOf(call))
    const { router } = call.slots
    expect(router).toMatchObject({ rows: experts, columns: 1 })
    Object.assign(router, { columns: rank, pitch: rank, memory: new Float32Array(experts * rank) })
    await expectRefused(call, 'ERR_LILY_SHAPE', `router must have ${experts} rows of 1 elements`)
  })

  test('rows of kept values with gaps', async () => {
    for (const slot of ['hidden', 'probabilities', 'weights']) {
      const call = changed('backward', slot, (of) => {
        of.pitch++
        of.memory = new Float32Array(of.rows * of.pitch)
      })
      await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} must be contiguous`)
    }
  })

  const LORA = { routing: routing.none, experts: 1, groups: 1 }
  const OF_LILY = [...WITHOUT_ROUTER, 'weights', 'mask', 'sequenceOffsets', 'uncheckedOffsets']
  test.each([
    ['forward', 'b'],
    ['backward', 'b'],
    ['backward', 'db'],
  ] as const)('LoRA, %s: %s has d_out rows of r', async (name, slot) => {
    const call = makeCall(name, LORA, OF_LILY)
    native.run(...argumentsOf(call))
    expect(call.slots[slot]).toMatchObject({ rows: dOut, columns: rank })
    Object.assign(call.slots[slot], { rows: rank, columns: dOut, pitch: dOut })
    await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} must have ${dOut} rows of ${rank} elements`)
  })

  test.each(['forward', 'backward'] as const)('LoRA, %s: operands that it does not have', async (name) => {
    for (const slot of slotsOf(name).map(({ name }) => name)) {
      if (!OF_LILY.includes(slot) || slot === 'mask') continue
      const call = makeCall(name, LORA, OF_LILY)
      call.slots[slot] = makeCall(name).slots[slot]
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} is not an operand of such a call`)
    }
  })

  test.each<[string, Call['numbers'], string]>([
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
    ['a routing that does not exist', { routing: 7 }, 'unknown routing'],
    ['a threshold of dropout beyond 16 bits', { dropout: 65536 }, 'dropout must be from 0 to 65535'],
    ['a negative threshold of dropout', { dropout: -1 }, 'dropout must be from 0 to 65535'],
    ['a pool that does not exist', { pool: 2 }, 'unknown pool'],
    ['an activation that does not exist', { activation: -1 }, 'unknown activation'],
    ['a precision that does not exist', { precision: 3 }, 'unknown precision'],
    ['a type that does not exist', { activationDtype: 3 }, 'unknown dtype'],
    ['parameters in 16 bits under float32', { parameterDtype: dtype.float16 }, 'the dtype of the parameters'],
  ])('%s', async (_, numbers, message) => {
    for (const name of ['forward', 'backward'] as const) {
      const call = makeCall(name)
      Object.assign(call.numbers, numbers)
      await expectRefused(call, 'ERR_LILY_ARGUMENT', message)
    }
  })

  // Its weights are not there: what lies at their address must not be multiplied by its D = 0.
  test.each(['sequence', 'fixed'] as const)('no sequences of %s routing give gradients of zero', (name) => {
    const without = name === 'fixed' ? WITHOUT_ROUTER : []
    const call = makeCall('backward', { tokens: 0, groups: 0, routing: routing[name] }, without)
    call.slots.weights.memory = new Float32Array(experts).fill(NaN).subarray(0, 0)
    call.slots.sequenceOffsets.memory = new Int32Array([0])
    native.run(...argumentsOf(call))
    for (const slot of name === 'fixed' ? ['da', 'db'] : ['da', 'dRouter', 'db']) {
      expect(new Set(call.slots[slot].memory as Float32Array)).toEqual(new Set([0]))
    }
  })

  test('the pitch of a single row may be anything', () => {
    for (const pitch of [0, -5, 2 ** 40]) {
      const call = makeCall('forward', { tokens: 1, groups: 1 })
      call.slots.sequenceOffsets.memory = new Int32Array([0, 1])
      for (const slot of ['x', 'y', 'hidden', 'probabilities', 'mask']) call.slots[slot].pitch = pitch
      native.run(...argumentsOf(call))
    }
  })

  test.each([[[0, 7, tokens]], [[0, -1, tokens]], [[1, 2, tokens]], [[0, 2, tokens - 1]]])(
    'sequence offsets %j',
    async (offsets) => {
      const call = changed('forward', 'sequenceOffsets', (of) => (of.memory = new Int32Array(offsets)))
      await expectRefused(call, 'ERR_LILY_ARGUMENT', 'sequenceOffsets do not ascend')
    },
  )

  test('more experts than the kernels have room for', async () => {
    await expectRefused(makeCall('forward', { experts: 65 }), 'ERR_LILY_ARGUMENT', 'experts must be from 1 to 64')
  })

  test('a deferred gradient beside db, or of LoRA', async () => {
    const deferred = makeCall('backward', {}, ['db']).slots.deferredDb
    for (const call of [makeCall('backward'), makeCall('backward', LORA, [...OF_LILY, 'db'])]) {
      call.slots.deferredDb = deferred
      await expectRefused(call, 'ERR_LILY_ARGUMENT', 'deferredDb')
    }
  })

  // One matrix per group, or one per expert if there are more groups than experts.
  test.each([
    ['two groups', 2, 2],
    ['more groups than experts', 5, experts],
  ])('a deferred gradient of %s', async (_, groups, matrices) => {
    const call = makeCall('backward', { groups }, ['db'])
    call.slots.sequenceOffsets.memory = Int32Array.from({ length: groups + 1 }, (_, g) => (g < groups ? g : tokens))
    const { deferredDb } = call.slots
    native.run(...argumentsOf(call))
    expect(deferredDb.rows).toBe(matrices)
    expect(new Set(deferredDb.memory as Float32Array)).not.toContain(OUTPUT)
    deferredDb.rows--
    await expectRefused(call, 'ERR_LILY_SHAPE', `deferredDb must have ${matrices} rows of ${rank * dOut} elements`)
  })
})

describe.each(['forwardRows', 'backwardRows'] as const)('the list of %s', (name) => {
  const LORA = { routing: routing.none, experts: 1, groups: 1 }
  const OF_LILY = ['router', 'probabilities', 'weights', 'dRouter']

  /** A call with another index. Its own is 0, 1, 2, 3, 4 for its call, 0, 2, 5 for the sequences of that, and 5 for no call. */
  const withIndex = (index: readonly number[], item: Call['numbers'] = {}) => {
    const call = changed(name, 'index', (of) => {
      of.memory = Int32Array.from(index)
      of.columns = of.pitch = index.length
    })
    Object.assign(call.items[0].numbers, item)
    return call
  }

  /** Two calls over 11 rows: 0 to 4, and 5, 7, 8, 9 and 10. */
  const two = (rows = [5, 7, 8, 9, 10], rest = [6]) => {
    const call = makeCall(name, { tokens: 11, listed: 10, indices: 17 })
    const [other] = makeCall(name).items
    other.numbers.first = -1
    call.items.push(other)
    call.slots.index.memory = Int32Array.from([0, 1, 2, 3, 4, ...rows, 0, 2, 5, 0, 2, 5, ...rest])
    return call
  }

  test.each([
    ['a row twice in a call', [0, 1, 2, 3, 3, 0, 2, 5, 5], -1],
    ['a row in a call and in none', [0, 1, 2, 3, 4, 0, 2, 5, 4], 0],
    ['a row beyond x', [0, 1, 2, 3, 6, 0, 2, 5, 5], -1],
    ['a row before x', [-1, 1, 2, 3, 4, 0, 2, 5, 5], -1],
    ['a row beyond x that no call has', [0, 1, 2, 3, 4, 0, 2, 5, 6], 0],
    ['a row before x that no call has', [0, 1, 2, 3, 4, 0, 2, 5, -1], 0],
  ])('%s', async (_, index, first) => {
    await expectRefused(withIndex(index, { first }), 'ERR_LILY_ARGUMENT', 'index must have each row once')
  })

  test('a row in two calls', async () => {
    await expectRefused(two([4, 7, 8, 9, 10]), 'ERR_LILY_ARGUMENT', 'index must have each row once')
  })

  test('rows that descend, or begin elsewhere', async () => {
    const descends = withIndex([0, 1, 3, 2, 4, 0, 2, 5, 5], { first: -1 })
    await expectRefused(descends, 'ERR_LILY_ARGUMENT', 'the rows of a call do not ascend in index')
    for (const index of [
      [1, 2, 3, 4, 5, 0, 2, 5, 0],
      [0, 1, 2, 3, 5, 0, 2, 5, 4],
    ]) {
      await expectRefused(withIndex(index), 'ERR_LILY_ARGUMENT', 'index does not have the rows from first on')
    }
  })

  test.each([[[0, 6, 5]], [[0, -1, 5]], [[1, 2, 5]], [[0, 2, 4]]])('sequences %j', async (offsets) => {
    const call = withIndex([0, 1, 2, 3, 4, ...offsets, 5])
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'sequenceOffsets do not ascend')
  })

  test.each<[string, Call['numbers'], string]>([
    ['more rows than x has', { listed: 7 }, 'listed must be from 0 to 6'],
    ['listed rows below zero', { listed: -1 }, 'listed must be from 0'],
    ['fewer indices than rows', { indices: 5 }, 'indices must be from 6'],
    ['a precision that does not exist', { precision: 3 }, 'unknown precision'],
    ['a type that does not exist', { activationDtype: 3 }, 'unknown dtype'],
    ['more rows than an int32 counts', { tokens: 2 ** 31 }, 'tokens must be from 0'],
    ['no d_in', { dIn: 0 }, 'd_in must be from 1'],
    ['no d_out', { dOut: 0 }, 'd_out must be from 1'],
  ])('%s', async (_, numbers, message) => {
    const call = makeCall(name)
    Object.assign(call.numbers, numbers)
    await expectRefused(call, 'ERR_LILY_ARGUMENT', message)
    await expectRefused({ ...call, items: [] }, 'ERR_LILY_ARGUMENT', message)
  })

  test.each<[string, Call['numbers'], string]>([
    ['more rows than are listed', { count: 6 }, 'count must be from 0 to 5'],
    ['rows below zero', { count: -1 }, 'count must be from 0 to 5'],
    ['rows beyond x', { first: 2 }, 'first must be from -1 to 1'],
    ['a first row that does not exist', { first: -2 }, 'first must be from -1 to 1'],
    ['no rank', { rank: 0 }, 'rank must be from 1'],
    ['a rank that is not whole', { rank: 1.5 }, 'rank is not a whole number'],
    ['a routing that does not exist', { routing: 7 }, 'unknown routing'],
    ['a count that is not whole', { count: NaN }, 'count is not a whole number'],
    ['groups without room in index', { groups: 3 }, 'index has no room for the sequences'],
    ['groups of batch routing', { routing: routing.batch }, 'this routing must have one group'],
  ])('%s in a call', async (_, numbers, message) => {
    const call = makeCall(name)
    Object.assign(call.items[0].numbers, numbers)
    await expectRefused(call, 'ERR_LILY_ARGUMENT', message)
  })

  test('other numbers of indices and of listed rows than the calls have', async () => {
    const call = withIndex([0, 1, 2, 3, 4, 0, 2, 5, 5, 0])
    call.numbers.indices++
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'indices must be 9')
    await expectRefused({ ...makeCall(name), items: [] }, 'ERR_LILY_ARGUMENT', 'the calls do not have the listed rows')
  })

  test('operands that a call does not have', async () => {
    for (const slot of OF_LILY.filter((slot) => slotsOf(name).some(({ name }) => name === slot))) {
      const call = makeCall(name, { ...LORA, indices: tokens }, OF_LILY)
      call.slots.index.memory = Int32Array.from({ length: tokens }, (_, t) => t)
      call.items[0].slots[slot] = makeCall(name).items[0].slots[slot]
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${slot} is not an operand of such a call`)
    }
  })

  test('the second call has operands of its own', async () => {
    for (const slot of ['a', 'router', 'b', 'hidden']) {
      const call = two()
      const of = call.items[1].slots[slot]
      of.memory = (of.memory as Float32Array).slice(1)
      await expectRefused(call, 'ERR_LILY_SHAPE', `${slot} has no`)
    }
    const call = two()
    call.items[1].slots.a.access = access.none
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'a is not given')
  })
})

describe('linear and pack', () => {
  test('dx of a valid call', () => {
    const call = makeCall('linear', { transposed: 1 })
    native.run(...argumentsOf(call))
    expect(new Set(call.slots.y.memory as Float32Array)).not.toContain(OUTPUT)
  })

  test('a bias of d_in elements is for dx, and a direction that does not exist', async () => {
    const call = makeCall('linear', { transposed: 1 })
    call.slots.bias = makeCall('linear').slots.bias
    await expectRefused(call, 'ERR_LILY_SHAPE', `bias must have 1 rows of ${dIn} elements`)
    call.numbers.transposed = 2
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'transposed must be 0 or 1')
  })

  test('a packed weight has room for all of the weight', () => {
    expect(native.packedBytes(...argumentsOf(makeCall('pack')))).toBeGreaterThanOrEqual(4 * dIn * dOut)
  })

  test('a packed weight that a call does not use is not written', () => {
    const call = makeCall('pack', { activationDtype: dtype.float16, parameterDtype: dtype.float16 })
    const memory = new Float32Array(64).fill(OUTPUT)
    call.slots.packed.memory = memory.subarray(0, 1)
    expect(native.packedBytes(...argumentsOf(call))).toBe(0)
    native.run(...argumentsOf(call))
    expect(new Set(memory)).toEqual(new Set([OUTPUT]))
  })

  test('the packed size of a weight that is not there, and of another operation', () => {
    const call = makeCall('pack')
    Object.assign(call.numbers, { dIn: 2 ** 40, dOut: 2 ** 40 })
    Object.assign(call.slots.weight, { rows: 2 ** 40, columns: 2 ** 40, pitch: 2 ** 40 })
    expect(() => native.packedBytes(...argumentsOf(call))).toThrow(refusal('ERR_LILY_SHAPE', 'weight'))
    expect(() => native.packedBytes(...argumentsOf(makeCall('linear')))).toThrow(
      refusal('ERR_LILY_ARGUMENT', 'only a weight that is packed has a packed size'),
    )
  })
})

describe('matmul', () => {
  test.each(['outer', 'inner', 'm', 'k', 'n'])('%s that does not fit', async (name) => {
    for (const value of [-1, 0.5, 2 ** 41]) {
      const call = makeCall('matmul')
      call.numbers[name] = value
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${name} `)
    }
    const call = makeCall('matmul')
    call.numbers[name] = 2 ** 40
    await expectRefused(call, 'ERR_LILY_SHAPE', '')
  })

  test.each(['aOuter', 'aInner', 'bOuter', 'bInner', 'transposeA', 'transposeB', 'precision', 'activationDtype'])(
    '%s that does not exist',
    async (name) => {
      const call = makeCall('matmul')
      call.numbers[name] = 3
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${name} must be from 0 to`)
    },
  )
})

describe('elementwise', () => {
  test.each(['function', 'm', 'n', 'aRows', 'aColumns', 'bRows', 'bColumns'])('%s beside its limits', async (name) => {
    for (const value of [-1, 0.5, 2 ** 41]) {
      const call = makeCall('elementwise')
      call.numbers[name] = value
      await expectRefused(call, 'ERR_LILY_ARGUMENT', `${name} `)
    }
  })

  test('sums of rows that repeat, a second operand of one, and an output that is added to', async () => {
    const sums = makeCall('elementwise', { function: 5, aColumns: 0 }, ['b'])
    await expectRefused(sums, 'ERR_LILY_ARGUMENT', 'a of sums has all rows and columns')
    const sigmoid = makeCall('elementwise', { function: 4 })
    await expectRefused(sigmoid, 'ERR_LILY_ARGUMENT', 'b is not an operand of such a call')
    const added = changed('elementwise', 'y', (of) => (of.access = access.add))
    await expectRefused(added, 'ERR_LILY_ARGUMENT', 'y of elements is overwritten')
  })
})

describe('attention', () => {
  test.each([
    ['batch', 0, 2 ** 31 - 1],
    ['tokens', 0, 2 ** 31 - 1],
    ['keys', 0, 2 ** 31 - 1],
    ['heads', 1, 2 ** 31 - 1],
    ['dHead', 1, 2 ** 31 - 1],
    ['causal', 0, 1],
  ])('%s beside its limits', async (name, least, most) => {
    for (const operation of ['attention', 'attentionBackward'] as const) {
      for (const value of [least - 1, most + 1, 0.5, NaN]) {
        const call = makeCall(operation)
        call.numbers[name] = value
        await expectRefused(call, 'ERR_LILY_ARGUMENT', name)
      }
    }
  })
})

describe('fold', () => {
  // Without weights there is a sum for each expert.
  test.each([
    [experts - 1, false],
    [experts + 1, false],
    [-1, true],
    [65, true],
  ])('%d partial sums, with weights: %o', async (partials, isWeighted) => {
    const call = makeCall('fold', { partials: Math.max(partials, 0) }, isWeighted ? [] : ['weights'])
    call.items[0].slots.partials.rows = partials
    await expectRefused(call, 'ERR_LILY_ARGUMENT', 'the number of partials')
  })

  test('no layers give zeros', () => {
    const call = { ...makeCall('fold'), items: [] }
    native.run(...argumentsOf(call))
    expect(new Set(call.slots.db.memory as Float32Array)).toEqual(new Set([0]))
  })
})

describe('adamw', () => {
  test.each([0, -1, 0.5, NaN])('step %d', async (step) => {
    await expectRefused(makeCall('adamw', { step }), 'ERR_LILY_ARGUMENT', 'step')
  })

  test('a gradient in the other type of 16 bits', async () => {
    const call = makeCall('adamw')
    const { value, grad } = call.items[0].slots
    Object.assign(value, { memory: new Uint16Array(4), dtype: dtype.bfloat16 })
    Object.assign(grad, { memory: new Uint16Array(4), dtype: dtype.float16 })
    await expectRefused(call, 'ERR_LILY_DTYPE', "a gradient has its value's dtype or float32")
  })
})
