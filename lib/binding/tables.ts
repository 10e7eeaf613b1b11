/** The tables of slots.ts in the form that loops over the operands of a call use. */
import {
  adamwFields,
  adamwItemSlots,
  adamwSlots,
  adapterFields,
  attentionBackwardSlots,
  attentionFields,
  attentionSlots,
  backwardRowsItemSlots,
  backwardRowsSlots,
  backwardSlots,
  drawSlots,
  elementwiseFields,
  elementwiseSlots,
  foldFields,
  foldItemSlots,
  foldSlots,
  forwardRowsItemSlots,
  forwardRowsSlots,
  forwardSlots,
  linearFields,
  linearSlots,
  matmulFields,
  matmulSlots,
  operation,
  packSlots,
  placementFields,
  type Row,
  rowsFields,
  size,
  slotFields,
} from './slots.js'

/** One operand of an operation: its name, its size and type in the terms of the call, and what the call does with it. */
export interface Slot {
  readonly name: string
  /** Positions in a list of sizes, for example `size` in slots.ts. */
  readonly rows: number
  readonly columns: number
  readonly type: Row[3]
  readonly use: Row[4]
}

export interface Table {
  readonly operation: number
  /** Number of fields before the slots and the items. */
  readonly fields: number
  readonly slots: readonly Slot[]
  /** The slots of each item of a list, which follow the others. */
  readonly itemSlots: readonly Slot[]
}

/** How many numbers a slot has. */
export const SLOT_NUMBERS = Object.keys(slotFields).length

const slotOf = ([name, rows, columns, type, use]: Row): Slot => ({
  name,
  rows: size[rows],
  columns: size[columns],
  type,
  use,
})

function table(
  name: keyof typeof operation,
  fields: object,
  slots: readonly Row[],
  itemSlots: readonly Row[] = [],
): Table {
  return {
    operation: operation[name],
    fields: Object.keys(fields).length,
    slots: slots.map(slotOf),
    itemSlots: itemSlots.map(slotOf),
  }
}

// Each by itself, so that bundlers leave out what a page does not use. Modules that use several import all as `tables`.
export const forward = /* @__PURE__ */ table('forward', adapterFields, forwardSlots)
export const backward = /* @__PURE__ */ table('backward', adapterFields, backwardSlots)
export const linear = /* @__PURE__ */ table('linear', linearFields, linearSlots)
/** The same for dx, with the names that the operands have then. */
export const linearBackward = /* @__PURE__ */ table(
  'linear',
  linearFields,
  linearSlots.map(([name, ...row]) => [name === 'x' ? 'dy' : name === 'y' ? 'dx' : name, ...row] as const),
)
export const pack = /* @__PURE__ */ table('pack', linearFields, packSlots)
export const attention = /* @__PURE__ */ table('attention', attentionFields, attentionSlots)
export const attentionBackward = /* @__PURE__ */ table('attentionBackward', attentionFields, attentionBackwardSlots)
export const fold = /* @__PURE__ */ table('fold', foldFields, foldSlots, foldItemSlots)
export const draw = /* @__PURE__ */ table('draw', placementFields, drawSlots)
export const adamw = /* @__PURE__ */ table('adamw', adamwFields, adamwSlots, adamwItemSlots)
export const matmul = /* @__PURE__ */ table('matmul', matmulFields, matmulSlots)
export const elementwise = /* @__PURE__ */ table('elementwise', elementwiseFields, elementwiseSlots)
export const forwardRows = /* @__PURE__ */ table('forwardRows', rowsFields, forwardRowsSlots, forwardRowsItemSlots)
export const backwardRows = /* @__PURE__ */ table('backwardRows', rowsFields, backwardRowsSlots, backwardRowsItemSlots)

const all = [
  forward,
  backward,
  linear,
  pack,
  matmul,
  attention,
  attentionBackward,
  elementwise,
  fold,
  draw,
  adamw,
  forwardRows,
  backwardRows,
]

/** The table of the operation with this number; undefined: there is none. */
export function tableOf(number: number): Table | undefined {
  return all.find((table) => table.operation === number)
}

/** A slot of a table, or of the items of its list. */
export function slotAt({ slots, itemSlots }: Table, index: number): Slot | undefined {
  return index < slots.length ? slots[index] : itemSlots[(index - slots.length) % itemSlots.length]
}
