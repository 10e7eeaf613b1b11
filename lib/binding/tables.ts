/** The tables of slots.ts in the form that loops over the operands of a call use. */
import {
  adamwItemSlots,
  adamwSlots,
  backwardSlots,
  fieldCounts,
  foldItemSlots,
  foldSlots,
  forwardSlots,
  linearSlots,
  operation,
  packSlots,
  type Row,
  slotFields,
} from './slots.js'

/** One operand of an operation: its name, its size and type in the terms of the call, and what the call does with it. */
export interface Slot {
  readonly name: string
  readonly rows: Row[1]
  readonly columns: Row[2]
  readonly type: Row[3]
  readonly use: Row[4]
}

export interface Table {
  readonly operation: number
  /** How many numbers come before those of the slots and of the items. */
  readonly fields: number
  readonly slots: readonly Slot[]
  /** The slots of each item of a list, which follow the others. */
  readonly itemSlots: readonly Slot[]
}

/** How many numbers a slot has. */
export const SLOT_NUMBERS = Object.keys(slotFields).length

const slotOf = ([name, rows, columns, type, use]: Row): Slot => ({ name, rows, columns, type, use })

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
  pack: table('pack', packSlots),
  fold: table('fold', foldSlots, foldItemSlots),
  adamw: table('adamw', adamwSlots, adamwItemSlots),
}

const byNumber = Object.values(tables)

/** A slot of the operation with this number; undefined: there is none. */
export function slotAt(operation: number, index: number): Slot | undefined {
  const table = byNumber[operation] as Table | undefined
  if (table === undefined || index < table.slots.length) return table?.slots[index]
  return table.itemSlots[(index - table.slots.length) % table.itemSlots.length]
}
