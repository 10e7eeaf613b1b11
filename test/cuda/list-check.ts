/** Lists of calls over disjoint rows, and the comparison with the calls on their own, whose rows are the whole of x and y. */
import { expect } from 'vitest'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { expectSameBits } from '../support/compare.js'
import { randomFrom } from '../support/random.js'
import type { Values } from '../support/run.js'
import { type List, type ListAnswer, timesFactors } from './list.js'

type Pattern = 'sorted' | 'turns' | 'random'

/** The rows of cases with so many tokens; `base` more rows are of none. */
function spread(cases: readonly Case[], base: number, pattern: Pattern): Pick<List, 'cases' | 'rows' | 'all'> {
  const random = randomFrom(base + 1)
  const places = { sorted: (k: number) => k, turns: (_: number, t: number) => t, random }
  const owners = [base, ...cases.map(({ tokens }) => tokens)]
    .flatMap((count, k) => Array.from({ length: count }, (_, t) => ({ k: k - 1, at: places[pattern](k, t) })))
    .sort((p, q) => p.at - q.at)
  const rows = cases.map((_, k) => [...owners.keys()].filter((row) => owners[row].k === k))
  return { cases, rows, all: owners.length }
}

type Part = Partial<Spec> & Pick<Spec, 'routing' | 'tokens' | 'rank'>

/** Cases of one d_in and d_out. */
export const casesOf = (parts: readonly Part[], common: Partial<Spec>): Case[] =>
  parts.map((part, k) => makeCase({ dIn: 530, dOut: 72, experts: 1, scaling: 0.5, seed: k + 1, ...common, ...part }))

/** That a list has the bits of its calls; y of the calls times the factors. The rows of no case were 7. */
export function expectSameAsCalls(list: List, { found, alone = [] }: ListAnswer['results'][number]): void {
  for (const [k, result] of alone.entries())
    for (const [name, expected] of Object.entries(result.values) as [keyof Values, Float32Array][])
      expectSameBits(
        `${name} of case ${k}`,
        found.values[k][name]!,
        name === 'y' ? timesFactors(expected, list, k) : expected,
      )
  const count = list.all - list.rows.flat().length
  const [{ dIn, dOut }] = list.cases
  for (const [numbers, cols] of [
    [found.base.y, dOut],
    [found.base.dx, dIn],
  ] as const)
    expect(numbers).toEqual(new Float32Array(count * cols).fill(list.outputs === 'add' ? 7 : 0))
}

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
      { routing: 'learned', tokens: 2, rank: 20, experts: 3 },
      { routing: 'learned', tokens: 0, rank: 20, experts: 3 },
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
      { routing: 'learned', tokens: 40, rank: 9, experts: 3 },
      { routing: 'learned', tokens: 33, rank: 9, experts: 2 },
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

/** By name. */
export const mixes: readonly (readonly [string, List])[] = MIXES.map(([name, pattern, outputs, common, parts]) => [
  name,
  { outputs, ...spread(casesOf(parts, common), 6, pattern) },
])

/** Lists with a factor for each row: powers of two, with which products are exact. */
export const scaled: readonly (readonly [string, List])[] = (
  [
    ['few tokens', 1, 8, 'bfloat16'],
    ['few tokens in float32', 1, 8, 'float32'],
    ['many tokens', 11, 8, 'bfloat16'],
    ['more tokens in float32', 3, 8, 'float32'],
    ['a large rank', 1, 132, 'bfloat16'],
  ] as const
).map(([name, times, rank, activations]) => {
  const parts = [
    { routing: 'lora', tokens: 9 * times, rank },
    { routing: 'batch', tokens: 12 * times, rank, experts: 3 },
    { routing: 'token', tokens: 11 * times, rank, experts: 3 },
  ] as const
  const cases = casesOf(parts, { activations })
  const scale = cases.map(({ tokens }) => Array.from({ length: tokens }, (_, t) => [1, 0.5, -2, 4][t % 4]))
  return [name, { outputs: 'overwrite', scale, ...spread(cases, 2, 'turns') }]
})

/** More calls than one launch holds. */
export const long: List = {
  outputs: 'add',
  ...spread(
    casesOf(new Array<Part>(70).fill({ routing: 'lora', tokens: 1, rank: 4 }), {
      ...{ activations: 'bfloat16', dIn: 24, dOut: 16 },
    }),
    3,
    'sorted',
  ),
}

/** The numbers of the first and the last row are outside of the matrices. */
export const clamped: List = {
  cases: casesOf([{ routing: 'lora', tokens: 3, rank: 4 }], { activations: 'bfloat16' }),
  ...{ outputs: 'overwrite', rows: [[0, 2, 4]], index: [[-5, 2, 2 ** 31 - 1]], all: 5 },
}
