/** The tables of slots.ts in the form that loops over the operands of a call use. */
import {
  adamwItemSlots,
  adamwSlots,
  attentionBackwardSlots,
  attentionSlots,
  backwardRowsItemSlots,
  backwardRowsSlots,
  backwardSlots,
  drawSlots,
  fieldCounts,
  elementwiseSlots,
  foldItemSlots,
  foldSlots,
  forwardRowsItemSlots,
  forwardRowsSlots,
  forwardSlots,
  linearSlots,
  matmulSlots,
  operation,
  packSlots,
  type Row,
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

function table(name: keyof typeof operation, slots: readonly Row[], itemSlots: readonly Row[] = []): Table {
  return {
    operation: operation[name],
    fields: fieldCounts[name],
    slots: slots.map(slotOf),
    itemSlots: itemSlots.map(slotOf),
  }
}

export const tables = {
  forward: table('forward', forwardSlots),
  backward: table('backward', backwardSlots),
  linear: table('linear', linearSlots),
  /** The same for dx, with the names that the operands have then. */
  linearBackward: table(
    'linear',
    linearSlots.map(([name, ...row]) => [name === 'x' ? 'dy' : name === 'y' ? 'dx' : name, ...row] as const),
  ),
  pack: table('pack', packSlots),
  attention: table('attention', attentionSlots),
  attentionBackward: table('attentionBackward', attentionBackwardSlots),
  fold: table('fold', foldSlots, foldItemSlots),
  draw: table('draw', drawSlots),
  adamw: table('adamw', adamwSlots, adamwItemSlots),
  matmul: table('matmul', matmulSlots),
  elementwise: table('elementwise', elementwiseSlots),
  forwardRows: table('forwardRows', forwardRowsSlots, forwardRowsItemSlots),
  backwardRows: table('backwardRows', backwardRowsSlots, backwardRowsItemSlots),
}

const byNumber = (Object.keys(operation) as (keyof typeof operation)[]).map((name): Table => tables[name])

/** The table of the operation with this number; undefined: there is none. */
export const tableOf = (operation: number): Table | undefined => byNumber[operation]

/** A slot of a table, or of the items of its list. */
export function slotAt({ slots, itemSlots }: Table, index: number): Slot | undefined {
  return index < slots.length ? slots[index] : itemSlots[(index - slots.length) % itemSlots.length]
}
