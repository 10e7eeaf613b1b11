/**
 * Calls with an adapter for each row: the bits of a call of each adapter over its rows, and the float64 reference.
 *
 * @project cpu amx wasm webgpu cuda @asan
 */
import { describe, test } from 'vitest'
import { isEmulated, isSlow, isWebGpu } from '../support/backend.js'
import { makeRowsCase, type RowsSpec } from '../support/cases.js'
import { checkRows } from '../support/check-rows.js'
import { FLOAT32, SIXTEEN_BITS, TYPES } from '../support/dtypes.js'
import type { HowRows } from '../support/rows.js'
import { everyNth } from '../support/runs.js'

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
  'LoRA, 1 to 3 rows of each, with factors': {
    adapters: [4, 16, 7].map((rank) => ({ ...lora, rank })),
    pattern: [2, 0, -1, 0, 1, 2, 0],
    tokens: 7,
    scaled: true,
    how: { outputs: 'add' },
  },
  'batch, 2 to 8 rows of each': {
    adapters: lily('batch'),
    pattern: [0, 1, 2, 2, 0, 1, 2, 2, -1, 2, 1, 2, 1, 2, 2],
    tokens: 15,
    how: { outputs: 'add', gap: 1 },
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
