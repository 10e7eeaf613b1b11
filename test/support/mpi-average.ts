/** Compares what ranks have averaged with the average that the test computes. */
import { expect } from 'vitest'
import { unpack } from './dtypes.js'
import { averageOf, CALLS } from './mpi-arrays.js'

/** What a rank has after each call: the bytes of gradients and of values. */
export type Averages = ReadonlyMap<string, { readonly gradients: Uint8Array[]; readonly values: Uint8Array[] }>

/** The numbers of an array of bytes. All NaN are the same one. */
function numbersIn(dtype: string, bytes: Uint8Array): Float32Array {
  const { buffer } = bytes.slice()
  return unpack(dtype, dtype === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer))
}

/**
 * Checks the bits of all calls of these names.
 *
 * @param answers those of all ranks
 */
export function expectAverages(names: readonly string[], answers: readonly Averages[]): void {
  for (const call of CALLS.filter(({ name }) => names.includes(name))) {
    const expected = averageOf(call, answers.length)
    for (const [rank, answer] of answers.entries()) {
      const { gradients, values } = answer.get(call.name)!
      for (const [i, { dtype, valueDtype = dtype, length }] of call.arrays.entries()) {
        const numbers = numbersIn(dtype, gradients[i])
        expect(numbers.length).toBe(length)
        const wrong = numbers.findIndex((value, j) => !Object.is(value, expected[i][j]))
        const what = `'${call.name}', rank ${rank}, array ${i} (${dtype}): a wrong number, and the right one`
        expect(wrong < 0 ? [] : [wrong, numbers[wrong], expected[i][wrong]], what).toEqual([])
        const unchanged = new (valueDtype === 'float32' ? Float32Array : Uint16Array)(length).fill(1)
        expect(Buffer.from(values[i]).equals(new Uint8Array(unchanged.buffer)), 'values are unchanged').toBe(true)
      }
    }
  }
}
