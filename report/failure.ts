/** Errors as sentences. Stack traces of the bundled command line help no user; DEBUG=lily prints them. */
import { LilyError } from '../lib/base/errors.js'
import { note } from './print.js'
import { oneLine, printableLines } from './printable.js'

/** An error whose message is complete: it says what failed and what to do. */
export class CommandError extends Error {}

const isDebugging = (): boolean =>
  (process.env.DEBUG ?? '').split(/[\s,]+/).some((name) => name === 'lily' || name === '*')

/** One line that describes an error. */
export function reasonOf(error: unknown): string {
  if (error instanceof LilyError) return oneLine(`${error.code}: ${error.message}`)
  // V8 has no class of its own for failed allocations.
  if (error instanceof RangeError && /array/i.test(error.message)) return `not enough memory (${error.message})`
  return oneLine(error instanceof Error ? error.message : String(error))
}

/** Whether the message alone explains the error: deliberate errors, and errors of the operating system. */
const isExplained = (error: unknown): boolean =>
  error instanceof LilyError || error instanceof CommandError || (error instanceof Error && 'syscall' in error)

/** Prints an error to stderr and sets the exit code to 1, unless an earlier event has set one. */
export function reportFailure(error: unknown): void {
  const unexpected = isExplained(error) ? '' : 'unexpected error: '
  const hint = unexpected === '' || isDebugging() ? '' : '; please report this; set DEBUG=lily to see where it happened'
  note(`error: ${unexpected}${reasonOf(error)}${hint}`)
  printStack(error)
  process.exitCode ||= 1
}

/** Prints the stack of an error to stderr if DEBUG contains `lily`. */
export function printStack(error: unknown): void {
  if (isDebugging() && error instanceof Error) note(printableLines(error.stack ?? error.message))
}

/** Runs all steps, even if some fail: the outputs of a command do not depend on each other. */
export async function attemptAll(steps: readonly (() => void | Promise<void>)[]): Promise<void> {
  for (const step of steps) {
    try {
      await step()
    } catch (error) {
      reportFailure(error)
    }
  }
}
