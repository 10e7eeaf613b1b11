/** Short forms of objects in the console of Node.js. */
import type { HostData } from './dtype.js'
import { cut } from './errors.js'
import { printable } from './printable.js'
import { inspectSymbol } from './symbols.js'

/** A name, which may be from a file. */
export const quoted = (name: string): string => `'${printable(cut(name))}'`

/** A number with a comma after each three digits. */
export const grouped = (count: number): string => count.toLocaleString('en')

/** The first numbers of an array of `length` numbers, each with four digits. */
export function firstNumbers(data: HostData, length: number): string {
  const shown = Array.from(data.subarray(0, 6), (value) => Number(value.toPrecision(4)))
  return `${shown.join(', ')}${length > shown.length ? ', ...' : ''}`
}

/**
 * Gives a result that is a plain object a short form in the console. Copies, comparisons and JSON do not have it, because
 * the property is not enumerable.
 *
 * @param text called each time that the object is shown
 */
export function summarised<T extends object>(result: T, text: (result: T) => string): T {
  return Object.defineProperty(result, inspectSymbol, { value: () => text(result) })
}
