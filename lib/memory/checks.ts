/** Checks of operands' devices and of overlaps. They run once all arguments have been read (see base/checks.ts). */
import { fail } from '../base/errors.js'
import { deviceText } from './device.js'
import type { OperandMemory } from './operand-memory.js'
import { checkMemory, type Operand, overlaps, sharesMemory } from './operand.js'
import { type Space, startOf } from './space.js'

/** Checks that an operand is on the device of `other` and that its memory is valid; see {@link checkMemory}. */
export function checkPlace(argument: string, operand: Operand | null, other: string, at: Operand): void {
  if (operand === null) return
  checkSameDevice(argument, operand, other, at)
  checkMemory(argument, operand)
}

/** Checks that an operand is on the device of `other`. */
export function checkSameDevice(argument: string, operand: Operand | null, other: string, { device }: Operand): void {
  if (operand === null || operand.device === device) return
  fail(
    'ERR_LILY_DEVICE',
    argument,
    `expected device ${deviceText(device)}, as ${other} has, got ${deviceText(operand.device)}; ` +
      `copy all operands of a call to one device`,
  )
}

/** The error about memory that a call would write and must not. */
export function refuseReadOnly(argument: string): never {
  return fail('ERR_LILY_ARGUMENT', argument, 'its memory is read-only, as its DLPack tensor says; pass a copy')
}

/** Checks that an output does not overlap another operand. */
export function refuseOverlap(
  argument: string,
  output: Operand,
  other: string,
  input: Operand | null | undefined,
): void {
  if (input == null || !overlaps(output, input)) return
  fail('ERR_LILY_ARGUMENT', argument, `its memory overlaps that of ${other}; pass memory that no other operand uses`)
}

/** An operand, and what an error calls it. */
export interface NamedOperand {
  readonly name: string
  readonly operand: Operand
}

/**
 * Checks that no output overlaps another output or an input. A model has thousands of operands: only those whose ranges of
 * bytes overlap are compared. Their memory must be valid.
 */
export function refuseOverlaps(outputs: readonly NamedOperand[], inputs: readonly NamedOperand[]): void {
  const spaces = new Map<Space, (NamedOperand & { isOutput: boolean; start: number })[]>()
  const add = ({ name, operand }: NamedOperand, isOutput: boolean) => {
    const { space, memory, byteOffset } = operand
    const ranges = spaces.get(space) ?? []
    ranges.push({ name, operand, isOutput, start: startOf(memory) + byteOffset })
    spaces.set(space, ranges)
  }
  for (const output of outputs) add(output, true)
  for (const input of inputs) add(input, false)
  for (const ranges of spaces.values()) {
    ranges.sort((left, right) => left.start - right.start)
    for (const [i, first] of ranges.entries()) {
      const end = first.start + first.operand.byteLength
      for (let j = i + 1; j < ranges.length && ranges[j].start < end; j++) {
        const [output, other] = first.isOutput ? [first, ranges[j]] : [ranges[j], first]
        if (output.isOutput) refuseOverlap(output.name, output.operand, other.name, other.operand)
      }
    }
  }
}

/**
 * Checks that an output does not lie in memory `own` that a saved call keeps; `other` names its tensors in the error.
 */
export function refuseBuffer(argument: string, output: Operand, other: string, own: OperandMemory | null): void {
  if (own === null || !sharesMemory(output, own)) return
  fail('ERR_LILY_ARGUMENT', argument, `its memory is that of ${other}; pass memory that no other operand uses`)
}
