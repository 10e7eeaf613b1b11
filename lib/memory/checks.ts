/** Checks of where operands are, and of what they share. They run after everything of the caller's has been read. */
import { fail } from '../base/errors.js'
import type { Device } from './device.js'
import { checkMemory, type Operand, type OperandMemory, overlaps, sharesMemory } from './operand.js'

/** An operand is where `other` is, and its memory is there and holds all of it. */
export function checkPlace(argument: string, operand: Operand | null, other: string, at: Operand): void {
  if (operand === null) return
  checkSameDevice(argument, operand, other, at)
  checkMemory(argument, operand)
}

export function checkSameDevice(argument: string, operand: Operand | null, other: string, { device }: Operand): void {
  if (operand === null || operand.device === device) return
  fail(
    'ERR_LILY_DEVICE',
    argument,
    `is on device ${deviceText(operand.device)}, but ${other} is on ${deviceText(device)}; ` +
      `all operands of a call must be on one device`,
  )
}

export function deviceText({ type, id }: Device): string {
  return `${type}:${id}`
}

export function refuseOverlap(
  argument: string,
  output: Operand,
  other: string,
  input: Operand | null | undefined,
): void {
  if (input == null || !overlaps(output, input)) return
  fail('ERR_LILY_ARGUMENT', argument, `its memory overlaps that of ${other}; results need memory of their own`)
}

/** For memory of the package's own, which nothing else lies in. */
export function refuseBuffer(argument: string, output: Operand, other: string, own: OperandMemory | null): void {
  if (own === null || !sharesMemory(output, own)) return
  fail('ERR_LILY_ARGUMENT', argument, `its memory is that of ${other}; results need memory of their own`)
}
