/**
 * Batched matrix products, compared with the reference: transposes, batches, sizes, layouts, bits.
 *
 * @project cpu wasm
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { matMul } from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { expectMatMul, leadingOf, type MatMulSpec, runMatMul, SPECS, TRANSPOSES } from '../support/matmul.js'
import { problems } from '../support/runs.js'

describe('matches the reference', () => {
  test.each(SPECS)('$m x $k x $n, $a x $b, $dtype, $transposeA $transposeB', async (spec) => {
    expectMatMul(spec, await runMatMul(spec))
  })

  test('random problems', async () => {
    const size = fc.integer({ min: 1, max: 40 })
    const dimension = fc.record({ count: fc.integer({ min: 0, max: 3 }), of: fc.constantFrom('both', 'a', 'b') })
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          m: size,
          k: fc.oneof(size, fc.constant(0), fc.constantFrom(255, 300)),
          n: size,
          dimensions: fc.array(dimension, { maxLength: 4 }),
          transposeA: fc.boolean(),
          transposeB: fc.boolean(),
          bias: fc.boolean(),
          dtype: fc.constantFrom('float32', 'bfloat16', 'float16'),
          outputs: fc.constantFrom('new', 'add', 'overwrite'),
          layout: fc.record({ gap: fc.constantFrom(0, 1, 16), margin: fc.constantFrom(0, 5) }),
        }),
        async ({ dimensions, ...rest }) => {
          const shape = (without: string) => dimensions.map(({ count, of }) => (of === without ? 1 : count))
          const spec: MatMulSpec = { ...rest, a: shape('b'), b: shape('a') }
          expectMatMul(spec, await runMatMul(spec))
        },
      ),
      problems(20, 60),
    )
  })

  test.each(['add', 'overwrite'] as const)('off the main thread, in several calls: %s', async (outputs) => {
    const spec: MatMulSpec = { a: [2, 1, 2], b: [1, 2, 2], m: 3, k: 4, n: 5, outputs, isAsync: true }
    expectMatMul(spec, await runMatMul(spec))
  })

  test.each(TRANSPOSES)('nothing: no rows, no columns, no batches, and sums of nothing: %o', async (transposes) => {
    const specs: MatMulSpec[] = [
      { a: [], b: [], m: 0, k: 3, n: 2 },
      { a: [2], b: [2], m: 3, k: 3, n: 0 },
      { a: [0, 2], b: [1, 1], m: 3, k: 3, n: 2 },
      { a: [2], b: [1], m: 12, k: 0, n: 18 },
      { a: [2], b: [1], m: 3, k: 0, n: 2, outputs: 'overwrite', bias: true },
      { a: [], b: [], m: 3, k: 0, n: 2, outputs: 'add' },
    ]
    for (const spec of specs) {
      const y = await runMatMul({ ...spec, ...transposes })
      expect(y.length).toBe(leadingOf(spec).reduce((p, q) => p * q, spec.m * spec.n))
      expectMatMul({ ...spec, ...transposes }, y)
    }
  })
})

describe('the bits', () => {
  const spec: MatMulSpec = { a: [5], b: [], m: 67, k: 300, n: 150, bias: true }
  test.each(TRANSPOSES)(
    'of a row do not depend on the batch, on other rows, and on the layout: %o',
    async (transposes) => {
      const of = { ...spec, ...transposes }
      const expected = await runMatMul(of)
      expectSameBits('y with gaps', await runMatMul({ ...of, layout: { gap: 3, margin: 1 } }), expected)
      expectSameBits('y of two batches', await runMatMul({ ...of, a: [5, 1], b: [1, 1, 1] }), expected)
      const a = matrixOf([5, 67, 300])
      const b = matrixOf([300, 150])
      const all = matMul({ a, b }).y.data as Float32Array
      const row = matMul({ a: { data: a.data.subarray(70 * 300, 71 * 300), shape: [1, 300] }, b }).y
      expectSameBits('a row', row.data, all.subarray(70 * 150, 71 * 150))
    },
  )
})

function matrixOf(shape: number[]) {
  const length = shape.reduce((p, q) => p * q)
  return { data: Float32Array.from({ length }, (_, i) => Math.sin(i)), shape }
}
