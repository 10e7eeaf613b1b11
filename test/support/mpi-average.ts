/** Compares what ranks have averaged with the average that the test computes. */
import { expect } from 'vitest'
import { unpack } from './dtypes.js'
import { type Averaged, averageOf } from './mpi-arrays.js'

/** The numbers of an array of bytes. All NaN are the same one. */
function numbersIn(dtype: string, bytes: Uint8Array): Float32Array {
  const { buffer } = bytes.slice()
  return unpack(dtype, dtype === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer))
}

export function expectAverage(
  call: Averaged,
  ranks: number,
  { gradients, values }: { gradients: Uint8Array[]; values: Uint8Array[] },
  rank: number,
) {
  const expected = averageOf(call, ranks)
  for (const [i, { dtype, valueDtype = dtype, length }] of call.arrays.entries()) {
    const numbers = numbersIn(dtype, gradients[i])
    expect(numbers.length).toBe(length)
    const wrong = numbers.findIndex((value, j) => !Object.is(value, expected[i][j]))
    const what = `'${call.name}', rank ${rank}, array ${i} (${dtype}): a wrong number, and the right one`
    expect(wrong < 0 ? [] : [wrong, numbers[wrong], expected[i][wrong]], what).toEqual([])
    const unchanged = new (valueDtype === 'float32' ? Float32Array : Uint16Array)(length).fill(rank + 1)
    expect(Buffer.from(values[i]).equals(new Uint8Array(unchanged.buffer)), 'values are unchanged').toBe(true)
  }
}
