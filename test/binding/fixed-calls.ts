/** Valid calls of every operation in float32, for tests that change one thing of them. */
import { expect } from 'vitest'
import { native } from '../../lib/binding/native.js'
import { access, dtype, operation, routing } from '../../lib/binding/slots.js'
import type { Slot } from '../../lib/binding/tables.js'
import * as tables from '../../lib/binding/tables.js'
import { argumentsOf, type Call, type Item, type Operand, operandOf, type OperationName } from './encoding.js'

export { argumentsOf, type Call, type Operand, type OperationName }

/** Those of the cpu backend. */
export const OPERATIONS = Object.keys(operation).filter((name) => name !== 'draw') as OperationName[]

export const [tokens, dIn, dOut, rank, experts] = [6, 8, 10, 2, 3]
/** What outputs hold before a call. */
export const OUTPUT = 7

/** The slots of an operation and of one item of its list, but for one that no call with a router has. */
export const slotsOf = (name: OperationName) =>
  [...tables[name].slots, ...tables[name].itemSlots].filter(({ name: slot }) => slot !== 'dWeights')

function memoryOf(name: string, type: number, length: number, fill: number) {
  if (name === 'sequenceOffsets') return Int32Array.from({ length }, (_, g) => (g < length - 1 ? 2 * g : tokens))
  if (name === 'uncheckedOffsets') return new Int32Array(length).fill(-9)
  if (name === 'index') return Int32Array.from(INDEX)
  if (type === dtype.uint8) return new Uint8Array(length).fill(1)
  if (type === dtype.int32) return new Int32Array(length)
  return type === dtype.float32 ? new Float32Array(length).fill(fill) : new Uint16Array(length)
}

function withMemory(slot: Slot, numbers: Call['numbers']): Operand {
  const operand = operandOf(slot, numbers)
  const { rows, columns, dtype: type, access: how } = operand
  return { ...operand, memory: memoryOf(slot.name, type, rows * columns, how === access.read ? 0.5 : OUTPUT) }
}

const operandsOfSlots = (slots: readonly Slot[], numbers: Call['numbers'], without: readonly string[] = []) =>
  Object.fromEntries(
    slots.filter(({ name }) => !without.includes(name)).map((slot) => [slot.name, withMemory(slot, numbers)]),
  )

const NUMBERS = {
  routing: routing.sequence,
  tokens,
  dIn,
  dOut,
  rank,
  experts,
  groups: 2,
  scaling: 1,
  dropout: 32768,
  partials: experts,
  elements: 4,
  batch: 2,
  keys: 5,
  heads: 2,
  dHead: 3,
  scale: 1,
  step: 1,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  activationDtype: dtype.float32,
  parameterDtype: dtype.float32,
}

/** Those of a list of one call of two sequences: it has all rows but the last. */
const ROWS = { listed: tokens - 1, indices: tokens + 3 }
const INDEX = [0, 1, 2, 3, 4, 0, 2, 5, 5]
const ROWS_ITEM = { tokens: tokens - 1, count: tokens - 1, first: 0 }

/** Those of batched matrix products. */
const PRODUCTS = { outer: 2, inner: 3, aOuter: 1, aInner: 1, bOuter: 0, bInner: 1, m: 5, k: 4, n: 7 }

/** Those of a function of elements: a product. */
const ELEMENTS = { function: 2, m: 5, n: 7, aRows: 1, aColumns: 1, bRows: 0, bColumns: 1 }

/** A call whose numbers differ from the common ones. `partials` of backward are those of its groups. */
export function makeCall(name: OperationName, change: Call['numbers'] = {}, without: readonly string[] = []): Call {
  const { partials, ...common } = NUMBERS
  const isRows = name === 'forwardRows' || name === 'backwardRows'
  const numbers: Call['numbers'] = {
    ...common,
    ...(name === 'fold' ? { partials } : {}),
    ...(isRows ? ROWS : {}),
    ...(name === 'matmul' ? PRODUCTS : {}),
    ...(name === 'elementwise' ? ELEMENTS : {}),
    ...change,
  }
  const { slots, itemSlots } = tables[name]
  const left = numbers.routing === routing.fixed ? [...without] : [...without, 'dWeights']
  if (name === 'backward' && !without.includes('db')) left.push('deferredDb')
  if (name === 'linear' || name === 'pack') {
    const { weight } = operandsOfSlots(tables.pack.slots, numbers)
    const call: Call = { operation: 'pack', numbers, slots: { weight }, items: [] }
    numbers.packed = native.packedBytes(...argumentsOf(call)) / 4
  }
  const itemNumbers = isRows ? { ...numbers, ...ROWS_ITEM } : { ...numbers, lr: 0.1, weightDecay: 0 }
  const items: Item[] =
    itemSlots.length === 0 ? [] : [{ numbers: itemNumbers, slots: operandsOfSlots(itemSlots, itemNumbers, without) }]
  return { operation: name, numbers, slots: operandsOfSlots(slots, numbers, left), items }
}

/** Where a call has the operand of a slot. */
export function holderOf(call: Call, slot: string): Record<string, Operand> {
  return slot in call.slots ? call.slots : call.items[0].slots
}

export const operandsOf = ({ slots, items }: Call): Operand[] =>
  [slots, ...items.map((item) => item.slots)].flatMap((slots) => Object.values(slots))

export const refusal = (code: string, message: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error

/** A call is refused in both forms, and has written nothing. */
export async function expectRefused(call: Call, code: string, message: string): Promise<void> {
  const contents = () =>
    operandsOf(call).map(({ memory }) => {
      // There is no view of a detached buffer.
      if (!ArrayBuffer.isView(memory) || memory.byteLength === 0) return []
      return [...new Uint8Array(memory.buffer, memory.byteOffset, memory.byteLength)]
    })
  const before = contents()
  const args = argumentsOf(call)
  expect(() => {
    native.run(...args)
  }).toThrow(refusal(code, message))
  // The addon throws, and WebAssembly rejects.
  await expect(Promise.resolve().then(() => native.runAsync(...args))).rejects.toEqual(refusal(code, message))
  expect(contents()).toEqual(before)
}
