/** What TypeScript accepts. Most of it is checked by `npm run lint:types`, which compiles this file. */
import { expect, expectTypeOf, test } from 'vitest'
import { type HostData, tensor } from '../lib/index.js'

const x = tensor([1, 2, 3, 4], [2, 2])

test('the data of a tensor has the methods that its classes have in common', () => {
  const error = x.data.map((value, i) => value - i)
  const loss = error.reduce((sum, value) => sum + value * value, 0)
  expectTypeOf(error).toEqualTypeOf<HostData>()
  expectTypeOf(loss).toEqualTypeOf<number>()
  expect(loss).toBe(4)
  expect(Math.max(...x.data)).toBe(4)
  expect(tensor(error, x.shape).data).toEqual(Float32Array.of(1, 1, 1, 1))
  if (x.data instanceof Float32Array) expectTypeOf(x.data).toExtend<Float32Array>()
  expectTypeOf<Float32Array>().toExtend<HostData>()
  expectTypeOf<Uint16Array>().toExtend<HostData>()
  expectTypeOf<Uint8Array>().toExtend<HostData>()
  expectTypeOf<Buffer>().toExtend<HostData>()
  expectTypeOf<Int32Array>().toExtend<HostData>()
  expectTypeOf<Float64Array>().not.toExtend<HostData>()
  expectTypeOf<Int8Array>().not.toExtend<HostData>()
  expectTypeOf<number[]>().not.toExtend<HostData>()
})
