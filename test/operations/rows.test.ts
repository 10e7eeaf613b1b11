/**
 * Calls with an adapter for each row: the bits of a call of each adapter over its rows, and the float64 reference.
 *
 * @project cpu amx wasm webgpu cuda @asan
 */
import { describe, expect, test } from 'vitest'
import { isEmulated, isSlow, isWebGpu } from '../support/backend.js'
import { makeRowsCase, type RowsCase, type RowsSpec } from '../support/cases.js'
import { expectClose, expectSameBits } from '../support/compare.js'
import { FLOAT32, SIXTEEN_BITS, TYPES } from '../support/dtypes.js'
import { Matrix } from '../support/reference.js'
import { gather, type HowRows, type RowsResult, runAlone, runRows } from '../support/rows.js'
import { backwardRows, forwardRows, tokensOf } from '../support/rows-reference.js'
import { everyNth } from '../support/runs.js'

async function checkRows(c: RowsCase, how: HowRows = {}): Promise<void> {
  const result = await runRows(c, how)
  expect(result.damaged, 'operands written to where they must not be').toEqual([])
  for (const k of c.adapters.keys()) {
    const { y, dx, each } = await runAlone(c, k, how, result.old)
    const tokens = tokensOf(c, k)
    expectSameBits(`y of adapter ${k}`, gather(result.y, c.dOut, tokens), y)
    expectSameBits(`dx of adapter ${k}`, gather(result.dx, c.dIn, tokens), dx)
    expect(Object.keys(result.each[k])).toEqual(Object.keys(each[0]))
    for (const name of ['hidden', 'probabilities', 'weights'] as const) {
      const [actual, expected] = [result.each[k][name], each[0][name]]
      if (expected) expectSameBits(`${name} of adapter ${k}`, actual ?? new Float32Array(), expected)
    }
  }
  checkBase(c, how, result)
  checkReference(c, how, result)
}

/** Rows of the base keep their bits; overwritten or new they are 0. */
function checkBase(c: RowsCase, { outputs = 'new' }: HowRows, { y, dx, old }: RowsResult): void {
  const rows = tokensOf(c, -1)
  const before = (values: Float32Array) => (outputs === 'add' ? values : new Float32Array(values.length))
  expectSameBits('y of the base', gather(y, c.dOut, rows), gather(before(old.y), c.dOut, rows))
  expectSameBits('dx of the base', gather(dx, c.dIn, rows), gather(before(old.dx), c.dIn, rows))
}

function checkReference(c: RowsCase, { outputs = 'new' }: HowRows, { y, dx, each, old }: RowsResult): void {
  const { activations, parameters = activations } = c
  const expected = forwardRows(c)
  const gradients = backwardRows(c, expected, c.dy)
  const close = (name: string, actual: Float32Array, matrix: Matrix, before: Float32Array | undefined) => {
    const type = name === 'y' || name === 'dx' ? activations : parameters
    const isAdded = outputs === 'add' && before !== undefined
    const sum = isAdded ? matrix.plus(Matrix.exact(matrix.rows, matrix.cols, before)) : matrix
    expectClose(name, actual, sum.rounded(type, true))
  }
  close('y', y, expected.y, old.y)
  close('dx', dx, gradients.dx, old.dx)
  for (const [k, of] of gradients.each.entries())
    for (const name of ['da', 'dRouter', 'db'] as const) {
      if (name === 'dRouter' && c.adapters[k].router === undefined) continue
      close(name, each[k][name] ?? new Float32Array(), of[name], old.each[k][name])
    }
}

const lora = { routing: 'lora', experts: 1, scaling: 2 } as const
const sizes = isEmulated || isWebGpu ? { tokens: 24, dIn: 33, dOut: 40 } : { tokens: 61, dIn: 97, dOut: 130 }
const { tokens } = sizes
const lengths = [0, 1, 3, 5, 0, 2, 4, 1, 1, tokens - 17]
const lily = (routing: 'batch' | 'sequence' | 'token' | 'uniform' | 'fixed', rest: object = {}) =>
  [5, 16, 20].map((rank) => ({ routing, rank, experts: 4, scaling: 0.5, ...rest }))

const mixes: Record<string, Omit<RowsSpec, 'dIn' | 'dOut' | 'tokens' | 'seed'> & { tokens?: number; how?: HowRows }> = {
  'LoRA of ranks 4 and 16, sorted': { adapters: [4, 16].map((rank) => ({ ...lora, rank })), pattern: 'sorted' },
  'LoRA in turns, with factors': {
    adapters: [4, 16, 7].map((rank) => ({ ...lora, rank })),
    pattern: 'turns',
    scaled: true,
    how: { outputs: 'add', gap: 3 },
  },
  'batch, at random, with a mask': { adapters: lily('batch'), pattern: 'random', masked: 0.3, how: { outputs: 'add' } },
  'batch, pooled logits and relu, overwritten': {
    adapters: lily('batch', { pool: 'logits', activation: 'relu' }),
    pattern: 'turns',
    how: { outputs: 'overwrite' },
  },
  'sequence, at random': { adapters: lily('sequence'), pattern: 'random', lengths, masked: 0.2, how: { gap: 1 } },
  'sequence, a 3-D x': {
    adapters: lily('sequence'),
    pattern: 'turns',
    tokens: 24,
    lengths: [4, 4, 4, 4, 4, 4],
    how: { leading: [6, 4], outputs: 'add' },
  },
  'token, with factors for sequences': {
    adapters: lily('token'),
    pattern: 'random',
    lengths,
    scaled: true,
    how: { outputs: 'add' },
  },
  'uniform, no rows of the base': {
    adapters: lily('uniform'),
    pattern: 'turns',
    base: false,
    how: { outputs: 'overwrite' },
  },
  'fixed, a row of weights for each adapter': {
    adapters: lily('fixed'),
    pattern: 'random',
    how: { outputs: 'add', gap: 1 },
  },
  'an adapter without rows, overwritten': {
    adapters: lily('batch'),
    pattern: Array.from({ length: tokens }, (_, t) => [0, 2, -1][t % 3]),
    how: { outputs: 'overwrite' },
  },
  'one row': { adapters: lily('batch'), pattern: [1], tokens: 1 },
  'all rows have the last adapter, Async': {
    adapters: [4, 16].map((rank) => ({ ...lora, rank })),
    pattern: new Array<number>(tokens).fill(1),
    how: { isAsync: true },
  },
  'all rows have the base': {
    adapters: lily('token'),
    pattern: new Array<number>(tokens).fill(-1),
    how: { outputs: 'add' },
  },
  'no rows': { adapters: lily('batch'), pattern: [], tokens: 0 },
}

describe('mixes of adapters', () => {
  // By turns in one of the 16-bit types.
  for (const [i, [name, { how, ...spec }]] of everyNth(
    isEmulated ? 4 : isWebGpu ? 3 : 1,
    Object.entries(mixes),
  ).entries())
    for (const types of isSlow ? [TYPES[FLOAT32]] : [TYPES[FLOAT32], SIXTEEN_BITS[i % SIXTEEN_BITS.length]])
      test(`${name}, ${Object.values(types).join(' ')}`, async () => {
        await checkRows(makeRowsCase({ ...sizes, ...spec, ...types, seed: i }), how)
      })
})
