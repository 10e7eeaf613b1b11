/**
 * Attention, compared with the reference: sizes, masks, layouts, refusals.
 *
 * @project cpu wasm @asan
 */
import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { attentionBackward, attentionForward, AttentionSaved, tensor } from '../../lib/index.js'
import {
  type AttentionHow,
  type AttentionResult,
  type AttentionSpec,
  makeAttention,
  runAttention,
} from '../support/attention.js'
import { attention, expectMatches } from '../support/attention-reference.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { problems } from '../support/runs.js'
import { expectRefused } from '../refusals/refused.js'

const check = (spec: AttentionSpec, how: AttentionHow = {}) => {
  expectMatches({ spec, how }, runAttention(makeAttention(spec), how))
}

describe('matches the reference', () => {
  test('random problems', () => {
    fc.assert(
      fc.property(
        fc.record({
          batch: fc.integer({ min: 0, max: 2 }),
          tokens: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 40 }) }, fc.constantFrom(128, 200)),
          keys: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 40 }) }, fc.constantFrom(128, 200)),
          heads: fc.integer({ min: 1, max: 3 }),
          dHead: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(31, 64, 65, 130)),
          causal: fc.boolean(),
          masked: fc.boolean(),
          seed: fc.integer(),
        }),
        fc.record({
          layout: fc.record({ gap: fc.constantFrom(0, 0, 1, 3, 16), margin: fc.constantFrom(0, 1, 5) }),
          outputs: fc.constantFrom('new', 'add', 'overwrite'),
        }),
        check,
      ),
      problems(8, 20),
    )
  })

  // Blocks of keys have 256 in forward and 128 in backward, and blocks of queries have 192.
  test.each([
    { tokens: 192, keys: 256 },
    { tokens: 193, keys: 257 },
    { tokens: 7, keys: 520 },
    { tokens: 400, keys: 9 },
  ])('several blocks, $tokens queries and $keys keys', (sizes) => {
    for (const causal of [false, true]) {
      check({ batch: 2, heads: 1, dHead: 17, ...sizes, causal, masked: true, seed: 5 }, { outputs: 'add' })
    }
  })

  test('no queries and no keys of many items', () => {
    const none = tensor(new Float32Array(0), [2 ** 31 - 1, 0, 1024])
    const { saved } = attentionForward({ q: none, k: none, v: none }, { heads: 1024 })
    expect(attentionBackward({ dy: none }, saved).dq.shape).toEqual(none.shape)
  })

  test('a scale', () => {
    for (const scale of [0, 2, -0.5]) check({ batch: 1, tokens: 9, keys: 13, heads: 2, dHead: 5, scale, seed: 3 })
  })

  test('scores whose exponentials overflow, and those of one key that are nearly one', () => {
    check({ batch: 1, tokens: 33, keys: 300, heads: 1, dHead: 16, scale: 40, seed: 4 })
  })

  test('the reference: its gradients are its differences', () => {
    const spec = { batch: 2, tokens: 3, keys: 4, heads: 2, dHead: 3, causal: true, masked: true, seed: 1 }
    const made = makeAttention(spec)
    const { value } = attention(made)
    const loss = () => attention(made).value.y.reduce((sum, y, i) => sum + y * made.dy[i], 0)
    for (const name of ['q', 'k', 'v'] as const) {
      for (let i = 0; i < made[name].length; i += 5) {
        const [before, step] = [made[name][i], 2 ** -10]
        made[name][i] = before + step
        const more = loss()
        made[name][i] = before - step
        const difference = (more - loss()) / (made[name][i] === before - step ? 2 * step : NaN)
        made[name][i] = before
        if (!Number.isNaN(difference)) expect(value[`d${name}`][i]).toBeCloseTo(difference, 5)
      }
    }
  })
})

describe('a key that is not seen', () => {
  const [batch, tokens, keys, d] = [2, 3, 5, 4]
  const random = randomFrom(1)
  const made = (rows: number) => tensor(gaussian(random, batch * rows * d), [batch, rows, d])
  const [q, k, v, dy] = [made(tokens), made(keys), made(keys), made(tokens)]
  const mask = { data: Uint8Array.of(1, 0, 1, 1, 0, 0, 0, 0, 0, 0), shape: [batch, keys] }
  const numbers = ({ data }: { data: unknown }) => data as Float32Array

  it('has no effect, whatever its numbers are, and no gradient', () => {
    const run = (fill: number) => {
      const [other, values] = [numbers(k).slice(), numbers(v).slice()]
      for (const key of [1, 4]) for (const rows of [other, values]) rows.fill(fill, key * d, (key + 1) * d)
      const { y, saved } = attentionForward(
        { q, k: tensor(other, k.shape), v: tensor(values, v.shape), mask },
        { heads: 2 },
      )
      return { y, ...attentionBackward({ dy }, saved) }
    }
    const [ofZeros, ofNaN] = [run(0), run(NaN)]
    for (const name of ['y', 'dq', 'dk', 'dv'] as const) expect(numbers(ofNaN[name])).toEqual(numbers(ofZeros[name]))
    for (const key of [1, 4]) expect([...numbers(ofNaN.dk).subarray(key * d, (key + 1) * d)]).toEqual([0, 0, 0, 0])
  })

  it('leaves a query without keys a y and gradients of zeros', () => {
    const { y, saved } = attentionForward({ q, k, v, mask }, { heads: 2 })
    const { dq, dk, dv } = attentionBackward({ dy }, saved)
    for (const [tensor, rows] of [
      [y, tokens],
      [dq, tokens],
      [dk, keys],
      [dv, keys],
    ] as const) {
      expect(
        numbers(tensor)
          .subarray(rows * d)
          .every((number) => number === 0),
      ).toBe(true)
    }
  })

  // Keys in each place of a tile of queries, in the first block of keys and in the next ones, with more keys than queries.
  it.each([NaN, Infinity])('has no effect on queries before it with causal, if it holds %d', (fill) => {
    const [tokens, keys] = [290, 300]
    const made = (rows: number) => tensor(gaussian(random, rows * d), [rows, d])
    const [q, k, v, dy] = [made(tokens), made(keys), made(keys), made(tokens)]
    const run = (first: number, value: number) => {
      const [ofK, ofV] = [k, v].map((rows) =>
        tensor(
          numbers(rows)
            .slice()
            .fill(value, first * d),
          [keys, d],
        ),
      )
      const { y, saved } = attentionForward({ q, k: ofK, v: ofV }, { heads: 2, causal: true })
      const seen = first + tokens - keys
      return [y, attentionBackward({ dy }, saved).dq].map((rows) => [
        numbers(rows).slice(0, seen * d),
        numbers(rows).slice(seen * d),
      ])
    }
    for (const first of [11, 12, 13, 14, 15, 16, 17, 129, 257, 299]) {
      const expected = run(first, 0)
      for (const [i, [before, after]] of run(first, fill).entries()) {
        expectSameBits(`key ${first}`, before, expected[i][0])
        expect(after.some(Number.isNaN)).toBe(true)
      }
    }
  })

  it('has no effect on a query that sees no key with causal', () => {
    const v = tensor(new Float32Array(2 * d).fill(NaN), [2, d])
    const { y } = attentionForward(
      { q: tensor(new Float32Array(3 * d), [3, d]), k: tensor(new Float32Array(2 * d), [2, d]), v },
      { heads: 2, causal: true },
    )
    expect([...numbers(y)]).toEqual([0, 0, 0, 0, ...new Array<number>(2 * d).fill(NaN)])
  })

  it('is the same in every form of a mask', () => {
    const expected = numbers(attentionForward({ q, k, v, mask }, { heads: 1 }).y)
    for (const other of [
      { data: Int32Array.from(mask.data), shape: mask.shape, dtype: 'int32' as const },
      { data: Float32Array.from(mask.data), shape: mask.shape },
    ]) {
      expect(numbers(attentionForward({ q, k, v, mask: other }, { heads: 1 }).y)).toEqual(expected)
    }
    const one = (rows: number) => tensor(numbers(rows === tokens ? q : k).slice(0, rows * d), [rows, d])
    const first = attentionForward({ q: one(tokens), k: one(keys), v: one(keys), mask: [1, 0, 1, 1, 0] }, { heads: 1 })
    expect(first.y.shape).toEqual([tokens, d])
  })
})

describe('the bits', () => {
  const spec: AttentionSpec = { batch: 3, tokens: 67, keys: 150, heads: 2, dHead: 24, masked: true, seed: 2 }
  const expectSame = (actual: AttentionResult, expected: AttentionResult, title: string) => {
    for (const name of ['y', 'dq', 'dk', 'dv'] as const)
      expectSameBits(`${name} ${title}`, actual[name], expected[name])
  }

  test('do not depend on the layout', () => {
    const expected = runAttention(makeAttention(spec), { outputs: 'overwrite' })
    const layout = { gap: 3, margin: 1 }
    expectSame(runAttention(makeAttention(spec), { outputs: 'overwrite', layout }), expected, 'with gaps')
    expectSame(runAttention(makeAttention(spec)), expected, 'of new outputs')
  })

  test('of an item do not depend on other items', () => {
    const all = makeAttention(spec)
    const expected = runAttention(all)
    const { tokens, keys, heads, dHead } = spec
    const part = (values: Float32Array, rows: number, width = heads * dHead) =>
      values.slice(2 * rows * width, 3 * rows * width)
    const last = {
      ...all,
      batch: 1,
      q: part(all.q, tokens),
      k: part(all.k, keys),
      v: part(all.v, keys),
      dy: part(all.dy, tokens),
      mask: all.mask?.slice(2 * keys),
    }
    const result = runAttention(last)
    expectSameBits('y', result.y, part(expected.y, tokens))
    expectSameBits('dq', result.dq, part(expected.dq, tokens))
    expectSameBits('dk', result.dk, part(expected.dk, keys))
    expectSameBits('dv', result.dv, part(expected.dv, keys))
  })
})

describe('backward', () => {
  const [tokens, d] = [5, 6]
  const random = randomFrom(9)
  const made = () => tensor(gaussian(random, tokens * d), [tokens, d])
  const [q, k, v, dy] = [made(), made(), made(), made()]

  it('computes the gradients that are needed, with the same bits', () => {
    const { saved } = attentionForward({ q, k, v }, { heads: 2, causal: true })
    const all = attentionBackward({ dy }, saved)
    for (const name of ['dq', 'dk', 'dv'] as const) {
      const needs = { dq: false, dk: false, dv: false, [name]: true }
      const only = attentionBackward({ dy }, saved, { needs })
      expect(only[name]?.data).toEqual(all[name].data)
      expect(Object.values(only).filter((gradient) => gradient !== undefined).length).toBe(1)
    }
    expect(attentionBackward({ dy }, saved, { needs: { dq: false, dk: false, dv: false } }).dq).toBe(undefined)
  })

  it('takes operands again that have moved', () => {
    const { y, saved } = attentionForward({ q, k, v }, { heads: 1 })
    const expected = attentionBackward({ dy }, saved)
    const [moved] = [{ q, k, v, y }].map((all) =>
      Object.fromEntries(Object.entries(all).map(([name, { data, shape }]) => [name, tensor(data.slice(), shape)])),
    )
    expect(attentionBackward({ dy, ...moved }, saved).dk.data).toEqual(expected.dk.data)
  })

  it('writes to columns of one buffer', () => {
    const { saved } = attentionForward({ q, k, v }, { heads: 1 })
    const expected = attentionBackward({ dy }, saved)
    const fused = new Float32Array(tokens * 3 * d)
    const columns = (i: number) => ({ data: fused, shape: [tokens, d], strides: [3 * d, 1], byteOffset: 4 * i * d })
    const { dq, dk, dv } = attentionBackward({ dy, dq: columns(0), dk: columns(1), dv: columns(2) }, saved)
    for (const [i, gradient] of [dq, dk, dv].entries()) expect(gradient.byteOffset).toBe(4 * i * d)
    expect([...fused.subarray(0, d)]).toEqual([...(expected.dq.data as Float32Array).subarray(0, d)])
    expect([...fused.subarray(2 * d, 3 * d)]).toEqual([...(expected.dv.data as Float32Array).subarray(0, d)])
  })
})

test('a saved call that is none, or disposed of', async () => {
  const zeros = (...shape: number[]) => tensor(new Float32Array(shape.reduce((p, q) => p * q)), shape)
  const [q, k, v, dy] = [zeros(2, 3, 4), zeros(2, 5, 4), zeros(2, 5, 4), zeros(2, 3, 4)]
  await expectRefused('ERR_LILY_ARGUMENT', 'saved: expected what attentionForward', () =>
    attentionBackward({ dy }, {} as never),
  )
  const { saved } = attentionForward({ q, k, v }, { heads: 2 })
  expect(saved).toBeInstanceOf(AttentionSaved)
  expect(saved.isDisposed).toBe(false)
  saved.dispose()
  saved.dispose()
  expect(saved.isDisposed).toBe(true)
  await expectRefused('ERR_LILY_DISPOSED', 'saved', () => attentionBackward({ dy }, saved))
  expect(attentionForward({ q, k, v }, { heads: 2, save: false }).saved).toBe(undefined)
})
