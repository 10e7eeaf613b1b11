/** Lists of calls over disjoint rows, compared bit by bit with the calls on their own, whose rows are the whole of x and y. */
import { describe, expect, test } from 'vitest'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { expectSameBits } from '../support/compare.js'
import { randomFrom } from '../support/random.js'
import { run, type Values } from '../support/run.js'
import { type List, runList } from './list.js'

type Pattern = 'sorted' | 'turns' | 'random'

/** The rows of cases with so many tokens; `base` more rows are of none. */
function spread(tokens: readonly number[], base: number, pattern: Pattern): Pick<List, 'rows' | 'all'> {
  const random = randomFrom(base + 1)
  const places = { sorted: (k: number) => k, turns: (_: number, t: number) => t, random }
  const owners = [base, ...tokens]
    .flatMap((count, k) => Array.from({ length: count }, (_, t) => ({ k: k - 1, at: places[pattern](k, t) })))
    .sort((p, q) => p.at - q.at)
  const rows = tokens.map((_, k) => [...owners.keys()].filter((row) => owners[row].k === k))
  return { rows, all: owners.length }
}

type Part = Partial<Spec> & Pick<Spec, 'routing' | 'tokens' | 'rank'>

/** Cases of one d_in and d_out. */
const casesOf = (parts: readonly Part[], common: Partial<Spec>) =>
  parts.map((part, k) => makeCase({ dIn: 530, dOut: 72, experts: 1, scaling: 0.5, seed: k + 1, ...common, ...part }))

/** Runs a list, and its cases on their own with dy times the factors; y is then compared times the factors. */
async function check(cases: readonly Case[], list: Omit<List, 'cases'>): Promise<void> {
  const { outputs, scale, all, rows } = list
  const scaled = (numbers: Float32Array, k: number) => {
    const cols = numbers.length / cases[k].tokens
    return scale ? numbers.map((value, i) => value * scale[k][Math.floor(i / cols)]) : numbers
  }
  const alone = []
  for (const [k, c] of cases.entries()) alone.push(await run({ ...c, dy: scaled(c.dy, k) }, { outputs }))
  const { values, base } = await runList(
    { ...list, cases },
    alone.map((result) => result.old),
  )
  for (const [k, result] of alone.entries())
    for (const [name, expected] of Object.entries(result.values) as [keyof Values, Float32Array][])
      expectSameBits(`${name} of case ${k}`, values[k][name]!, name === 'y' ? scaled(expected, k) : expected)
  const count = all - rows.flat().length
  const [{ dIn, dOut }] = cases
  for (const [numbers, cols] of [
    [base.y, dOut],
    [base.dx, dIn],
  ] as const)
    expect(numbers).toEqual(new Float32Array(count * cols).fill(outputs === 'add' ? 7 : 0))
}

const tokensOf = (cases: readonly Case[]) => cases.map(({ tokens }) => tokens)

const MIXES: readonly [string, Pattern, List['outputs'], Partial<Spec>, Part[]][] = [
  [
    'few tokens in bfloat16',
    'turns',
    'add',
    { activations: 'bfloat16' },
    [
      { routing: 'lora', tokens: 3, rank: 16 },
      { routing: 'batch', tokens: 5, rank: 20, experts: 3, masked: 0.3 },
      { routing: 'lora', tokens: 1, rank: 16 },
      { routing: 'lora', tokens: 0, rank: 4 },
      { routing: 'token', tokens: 4, rank: 8, experts: 3 },
      { routing: 'sequence', tokens: 6, rank: 8, experts: 3, lengths: [2, 0, 4] },
    ],
  ],
  [
    'more tokens in bfloat16',
    'random',
    'overwrite',
    { activations: 'bfloat16', parameters: 'float32' },
    [
      { routing: 'lora', tokens: 70, rank: 16 },
      { routing: 'lora', tokens: 20, rank: 70 },
      { routing: 'batch', tokens: 70, rank: 20, experts: 3, masked: 0.3, activation: 'relu', pool: 'logits' },
      { routing: 'sequence', tokens: 30, rank: 9, experts: 3, lengths: [11, 0, 19] },
      { routing: 'uniform', tokens: 31, rank: 140, experts: 3 },
    ],
  ],
  [
    'runs in float32, of which rows do not consist of whole vectors',
    'sorted',
    'add',
    { dIn: 33, dOut: 37 },
    [
      { routing: 'token', tokens: 40, rank: 5, experts: 3 },
      { routing: 'fixed', tokens: 30, rank: 4, experts: 2, lengths: [5, 25] },
      { routing: 'lora', tokens: 9, rank: 3 },
    ],
  ],
]

describe('the bits of separate calls', () => {
  test.each(MIXES)('%s', async (_, pattern, outputs, common, parts) => {
    const cases = casesOf(parts, common)
    await check(cases, { outputs, ...spread(tokensOf(cases), 6, pattern) })
  })
})

test.each([
  ['few tokens', 1, 8],
  ['many tokens', 11, 8],
  ['a large rank', 1, 132],
] as const)('factors of rows, %s: y, and the gradients of dy times the factors', async (_, times, rank) => {
  const cases = casesOf(
    [
      { routing: 'lora', tokens: 9 * times, rank },
      { routing: 'batch', tokens: 12 * times, rank, experts: 3 },
      { routing: 'token', tokens: 11 * times, rank, experts: 3 },
    ],
    { activations: 'bfloat16' },
  )
  // Powers of two: products with them are exact.
  const scale = cases.map(({ tokens }) => Array.from({ length: tokens }, (_, t) => [1, 0.5, -2, 4][t % 4]))
  await check(cases, { outputs: 'overwrite', scale, ...spread(tokensOf(cases), 2, 'turns') })
})

test('an index is clamped to the rows', async () => {
  const cases = casesOf([{ routing: 'lora', tokens: 3, rank: 4 }], { activations: 'bfloat16' })
  await check(cases, { outputs: 'overwrite', rows: [[0, 2, 4]], index: [[-5, 2, 2 ** 31 - 1]], all: 5 })
})
