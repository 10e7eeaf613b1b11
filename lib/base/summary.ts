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
 * What `[inspectSymbol]` of a class is, a getter: of a Proxy, such as Vue and MobX make, Node.js reads it from the target and
 * then calls it with the Proxy, which has no private fields. Runtimes that read it from the Proxy get the name of the class.
 *
 * @param text called each time that the object is shown
 */
export function summaryOf(object: object, text: () => string): () => string {
  return () => {
    try {
      return text()
    } catch (error) {
      if (error instanceof TypeError) return `Proxy of ${object.constructor.name}`
      throw error
    }
  }
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
