/** Calls of the binding by the names of their numbers and operands, without lib/operations: the tables give the rest. */
import type { Memory } from '../../lib/binding/native.js'
import {
  access,
  adamwFields,
  adamwItemFields,
  adapterFields,
  attentionFields,
  dtype,
  elementwiseFields,
  foldFields,
  linearFields,
  matmulFields,
  operation,
  precision,
  routing,
  rowsFields,
  rowsItemFields,
  size,
  slotFields,
} from '../../lib/binding/slots.js'
import type { Slot } from '../../lib/binding/tables.js'
import * as tables from '../../lib/binding/tables.js'

export type OperationName = keyof typeof operation

/** Numbers by name; those that are missing are 0. */
export type Numbers = Readonly<Record<string, number>>

export type Operand = { memory: Memory } & Record<keyof typeof slotFields, number>

export interface Item {
  numbers: Record<string, number>
  slots: Record<string, Operand>
}

/** A call; the items are those of its list. */
export interface Call extends Item {
  operation: OperationName
  items: Item[]
}

/** Those that every call begins with. */
const placementFields = { operation: 0, backend: 1, device: 2, stream: 3, memoryStream: 4 }

const FIELDS = {
  forward: adapterFields,
  backward: adapterFields,
  linear: linearFields,
  pack: linearFields,
  attention: attentionFields,
  attentionBackward: attentionFields,
  fold: foldFields,
  adamw: adamwFields,
  matmul: matmulFields,
  elementwise: elementwiseFields,
  draw: placementFields,
  forwardRows: rowsFields,
  backwardRows: rowsFields,
}

const ITEM_FIELDS: Partial<Record<OperationName, object>> = {
  adamw: adamwItemFields,
  forwardRows: rowsItemFields,
  backwardRows: rowsItemFields,
}

const listOf = (positions: object, numbers: Numbers) => Object.keys(positions).map((name) => numbers[name] ?? 0)

/** The arguments of `run`, `runAsync` and `packedBytes`. */
export function argumentsOf({ operation: name, numbers, slots, items }: Call): [Float64Array, ...Memory[]] {
  const operandsOf = (rows: readonly Slot[], given: Item['slots']) =>
    rows.map(({ name }) => given[name] as Operand | undefined)
  const operands = [
    ...operandsOf(tables[name].slots, slots),
    ...items.flatMap((item) => operandsOf(tables[name].itemSlots, item.slots)),
  ]
  const all = [
    ...listOf(FIELDS[name], { ...numbers, operation: operation[name] }),
    ...items.flatMap((item) => listOf(ITEM_FIELDS[name] ?? {}, item.numbers)),
    ...operands.flatMap((operand) => listOf(slotFields, (operand ?? {}) as Numbers)),
  ]
  return [Float64Array.from(all), ...operands.map((operand) => operand?.memory ?? null)]
}

/** The sizes of a call by their positions. `partials` and `elements` of a list are those of one item, and `tokens` its count. */
export function sizesOf(numbers: Numbers): number[] {
  const { tokens = 0, dIn = 0, dOut = 0, rank = 0, experts = 0, groups = 0 } = numbers
  const isLora = numbers.routing === routing.none
  const isTransposed = numbers.transposed === 1
  const isWeighted = numbers.routing === routing.token || groups > experts
  const { batch = 0, keys = 0, heads = 0, dHead = 0 } = numbers
  const sizes: Record<keyof typeof size, number> = {
    one: 1,
    tokens,
    dIn,
    dOut,
    rank,
    experts,
    groups,
    offsets: groups + 1,
    bRows: isLora ? dOut : experts * rank,
    bColumns: isLora ? rank : dOut,
    routerColumns: numbers.routing === routing.learned ? 1 : rank,
    four: 4,
    depth: isTransposed ? dOut : dIn,
    width: isTransposed ? dIn : dOut,
    packed: numbers.packed ?? 0,
    partials: numbers.partials ?? (isWeighted ? experts : groups),
    partial: rank * dOut,
    batch,
    keys,
    queryRows: batch * tokens,
    keyRows: batch * keys,
    headColumns: heads * dHead,
    headRows: batch * heads,
    statistics: 2 * tokens,
    elements: numbers.elements ?? 0,
    listed: numbers.listed ?? 0,
    indices: numbers.indices ?? 0,
    rows: 0,
    aRows: 0,
    aColumns: 0,
    ...('outer' in numbers ? matmulSizesOf(numbers) : {}),
    ...('function' in numbers ? elementwiseSizesOf(numbers) : {}),
  }
  return Object.keys(size).map((name) => sizes[name as keyof typeof size])
}

/** The sizes of batched matrix products. */
function matmulSizesOf({ outer, inner, aOuter, aInner, bOuter, bInner, m, k, n, transposeA, transposeB }: Numbers) {
  const count = (hasOuter: number, hasInner: number) => (hasOuter === 1 ? outer : 1) * (hasInner === 1 ? inner : 1)
  const [aRows, aColumns] = transposeA === 1 ? [k, m] : [m, k]
  const [bRows, bColumns] = transposeB === 1 ? [n, k] : [k, n]
  return {
    rows: outer * inner * m,
    width: n,
    aRows: count(aOuter, aInner) * aRows,
    aColumns,
    bRows: count(bOuter, bInner) * bRows,
    bColumns,
  }
}

/** The sizes of functions of elements. */
function elementwiseSizesOf({ function: of, m, n, aRows, aColumns, bRows, bColumns }: Numbers) {
  return {
    rows: m,
    width: of === 5 ? 1 : n,
    aRows: aRows === 1 ? m : 1,
    aColumns: aColumns === 1 ? n : 1,
    bRows: bRows === 1 ? m : 1,
    bColumns: bColumns === 1 ? n : 1,
  }
}

/** The type of an operand; of those that may have several, the one of the parameters, or float32. */
export function typeOf({ type }: Slot, { activationDtype, parameterDtype, precision: of }: Numbers): number {
  switch (type) {
    case 'activation':
      return activationDtype
    case 'parameter':
    case 'gradient':
      return parameterDtype
    case 'hidden':
      return parameterDtype === dtype.float32 && of === precision.high ? dtype.float32 : activationDtype
    case 'any':
      return dtype.float32
    default:
      return dtype[type]
  }
}

/** What a call does with an operand: it overwrites outputs. */
export function accessOf({ use }: Slot): number {
  if (use === 'output') return access.write
  return use === 'update' ? access.add : access.read
}

export function bytesOf(type: number): number {
  if (type === dtype.uint8) return 1
  return type === dtype.float32 || type === dtype.int32 ? 4 : 2
}

/** An operand of the size and the type that the numbers of a call give it, without memory. */
export function operandOf(slot: Slot, numbers: Numbers): Operand {
  const sizes = sizesOf(numbers)
  const [rows, columns] = [sizes[slot.rows], sizes[slot.columns]]
  return {
    memory: null,
    byteOffset: 0,
    rows,
    columns,
    pitch: columns,
    dtype: typeOf(slot, numbers),
    access: accessOf(slot),
  }
}
