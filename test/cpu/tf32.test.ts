/**
 * precision 'tf32' on the CPU: two terms of bfloat16 on the model of AMX, and nothing on other instruction sets. The
 * numerical suites check its tolerance; see `terms` in support/dtypes.ts.
 *
 * @project cpu amx
 */
import { describe, expect, test } from 'vitest'
import { backends } from '../../lib/index.js'
import { backward, forward } from '../support/reference.js'
import { isModelled } from '../support/backend.js'
import { type Case, makeCase, type Spec, splitTokens } from '../support/cases.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import type { Types } from '../support/dtypes.js'
import { run, type Values } from '../support/run.js'

const sizes = { tokens: 70, dIn: 300, dOut: 280, rank: 136, experts: 2, scaling: 1.5 }
const tf32 = { precision: 'tf32' } as const

if (isModelled) describe('two terms on AMX', onAmx)
else describe('without AMX', withoutAmx)

function onAmx() {
  // A single term: gradients in float32 of operands in bfloat16. Their errors are those of the operands, because the
  // gradients are not rounded.
  test('have an error far below that of a single term, and above that of float32', async () => {
    const spec: Spec = { ...sizes, routing: 'batch', seed: 1 }
    const exact = makeCase(spec)
    const { da, db } = backward(exact, forward(exact), exact.dy)
    const errorsOf = async (types: Types) => {
      const { values } = await run(makeCase({ ...spec, ...types }), { outputs: 'overwrite' })
      return { da: relativeError(values.da ?? [], da.value), db: relativeError(values.db ?? [], db.value) }
    }
    const single = await errorsOf({ activations: 'bfloat16', parameters: 'float32' })
    const double = await errorsOf(tf32)
    const full = await errorsOf({})
    for (const name of ['da', 'db'] as const) {
      expect(single[name] / double[name], `${name}: one term to two`).toBeGreaterThan(200)
      expect(double[name] / full[name], `${name}: two terms to float32`).toBeGreaterThan(5)
    }
  })

  const hiddenOf = async (c: Case): Promise<Float32Array> => (await run(c)).values.hidden ?? new Float32Array()
  const small: Spec = { ...sizes, tokens: 40, rank: 33, dOut: 32, routing: 'uniform', ...tf32, seed: 2 }

  test('what rounds to infinity becomes NaN in its own rows', async () => {
    const expected = await hiddenOf(makeCase(small))
    // The largest float32 is nearer to 2^128 than to the largest bfloat16.
    for (const value of [Infinity, -Infinity, 3.4028234e38]) {
      const c = makeCase(small)
      c.x[7 * c.dIn + 5] = value
      const hidden = await hiddenOf(c)
      expect(hidden.subarray(7 * c.rank, 8 * c.rank).every(Number.isNaN)).toBe(true)
      expectSameBits('rows before', hidden.subarray(0, 7 * c.rank), expected.subarray(0, 7 * c.rank))
      expectSameBits('rows after', hidden.subarray(8 * c.rank), expected.subarray(8 * c.rank))
    }
  })

  test('tiny numbers lose their lower term, and are zeros if they are subnormal', async () => {
    const scaled = async (exponent: number) => {
      const c = makeCase(small)
      c.x.forEach((value, i) => (c.x[i] = value * 2 ** exponent))
      // In float64, because 2^-exponent is no float32.
      return Float64Array.from(await hiddenOf(c), (value) => value * 2 ** -exponent)
    }
    const expected = await scaled(0)
    expect(relativeError(await scaled(-60), expected)).toBe(0)
    const withoutLower = relativeError(await scaled(-114), expected)
    expect(withoutLower).toBeGreaterThan(2 ** -12)
    expect(withoutLower).toBeLessThan(2 ** -7)
    expect((await scaled(-130)).every((value) => value === 0)).toBe(true)
  })
}

function withoutAmx() {
  const ragged = { lengths: splitTokens(sizes.tokens, 4, 1), masked: 0.3 }
  const [cpu] = backends()
  test.for<Spec>([
    { ...sizes, routing: 'batch', seed: 3 },
    { ...sizes, routing: 'sequence', ...ragged, activation: 'relu', seed: 4 },
    { ...sizes, routing: 'token', rank: 130, seed: 5 },
    { ...sizes, routing: 'lora', experts: 1, seed: 6 },
  ])('$routing has the bits of the default', async (spec, context) => {
    if (cpu.devices[0].simd === 'amx') return context.skip('this processor has AMX; see test/cpu/amx.test.ts')
    const expected = (await run(makeCase(spec))).values
    const { values } = await run(makeCase({ ...spec, ...tf32 }))
    for (const [name, value] of Object.entries(expected)) {
      expectSameBits(name, values[name as keyof Values] ?? new Float32Array(), value)
    }
  })
}
