/**
 * Sequence offsets in device memory, which the host does not read: they may be any numbers. Every output then follows from
 * the operands of the call as test/support/reference.ts says, and tokens outside of all sequences have no share in any gradient.
 */
import { expect } from 'vitest'
import { isSlow } from './backend.js'
import { isLong } from './runs.js'
import { type Case, makeCase, type Spec, splitTokens } from './cases.js'
import { checkCase } from './check.js'
import { expectSameBits } from './compare.js'
import { type How, run, wantedGradients } from './run.js'

type Problem = Omit<Spec, 'seed'>

const small = { dIn: 33, dOut: 40, rank: 6, experts: 3, scaling: 2 }

/** Few tokens, which have kernels of their own on CUDA, and more; ranks up to more than a tile. */
export const problems: readonly Problem[] = [
  { ...small, routing: 'sequence', tokens: 40 },
  { ...small, routing: 'sequence', tokens: 23, pool: 'logits', masked: 0.3, activation: 'relu' },
  { ...small, routing: 'fixed', tokens: 40, activations: 'bfloat16' },
  { ...small, routing: 'sequence', tokens: 150, rank: 9 },
  { ...small, routing: 'sequence', tokens: 150, pool: 'logits', masked: 0.3, activations: 'bfloat16' },
  { ...small, routing: 'sequence', tokens: 70, rank: 132, activation: 'relu' },
  { ...small, routing: 'fixed', tokens: 150, rank: 9, activation: 'relu' },
]

const LEAST = -(2 ** 31)
const MOST = 2 ** 31 - 1

/** Offsets for M tokens. Those of more groups than there are experts defer dB in another form. */
export const offsetsFor = (tokens: number): readonly number[][] => {
  const half = Math.floor(tokens / 2)
  return [
    [0, tokens - 3, 2], // the last group ends before it begins
    [0, tokens - 3, 2, tokens],
    [5, half, tokens], // tokens before the first group
    [0, 3, half], // tokens after the last one
    [4, half],
    [half, 1],
    [tokens, 0],
    [-7, half, tokens + 9],
    [tokens + 1, tokens + 5, 2],
    [-3, -1, LEAST],
    [LEAST, MOST, 0],
    [0, half, MOST, half + 1, 0, tokens],
    [3, 1, half, half - 1, -1, half + 2, 4, half + 2],
    [half - 2, half],
  ]
}

/** The case of a problem with valid offsets of as many sequences. */
const validCase = (problem: Problem, groups: number, seed: number): Case =>
  makeCase({ ...problem, lengths: splitTokens(problem.tokens, groups, seed), seed })

const howOf = (i: number): How => ({
  outputs: (['add', 'overwrite', 'new'] as const)[i % 3],
  deferB: i % 2 === 1,
  hasDeviceOffsets: true,
})

/** Leaves NaN in the memory that later calls of the same sizes get. */
async function leaveNaN(valid: Case, how: How): Promise<void> {
  const [x, dy] = [valid.x, valid.dy].map((values) => new Float32Array(values.length).fill(NaN))
  await run({ ...valid, x, dy }, how)
}

/** Where kernels are slow, of each problem a third of the lists: each list has two problems or three. A long run checks all. */
export async function checkOffsets(problem: Problem): Promise<void> {
  const turn = problems.indexOf(problem)
  const lists = offsetsFor(problem.tokens).filter((_, i) => isLong || !isSlow || (i + turn) % 3 === 0)
  for (const [i, offsets] of lists.entries()) {
    const how = howOf(i)
    await leaveNaN(validCase(problem, offsets.length - 1, i), how)
    try {
      await checkCase(makeCase({ ...problem, offsets, seed: i }), how)
    } catch (cause) {
      throw new Error(`offsets [${offsets.join(', ')}], ${JSON.stringify(how)}`, { cause })
    }
  }
}

/** NaN in tokens outside of all groups reaches no gradient and no other row. */
export async function checkNaNOutside(problem: Problem): Promise<void> {
  const { tokens, dIn, dOut } = problem
  const [first, end] = [4, tokens - 5]
  const c = makeCase({ ...problem, offsets: [first, tokens - 9, 2, end], seed: 7 })
  const isOutside = (_: number, t: number) => t < first || t >= end
  const withNaN = (values: Float32Array, columns: number) =>
    values.map((value, i) => (isOutside(value, Math.floor(i / columns)) ? NaN : value))
  for (const deferB of [false, true]) {
    const how: How = { outputs: 'add', deferB, hasDeviceOffsets: true }
    const finite = await run(c, how)
    const hostile = await run({ ...c, x: withNaN(c.x, dIn), dy: withNaN(c.dy, dOut) }, how)
    for (const name of [...wantedGradients(c), 'weights'] as const) {
      expectSameBits(name, hostile.values[name] as Float32Array, finite.values[name] as Float32Array)
    }
    const inside = ({ values }: typeof finite) => values.y?.subarray(first * dOut, end * dOut) as Float32Array
    expectSameBits('y of the groups', inside(hostile), inside(finite))
  }
}

/** Tokens outside of all groups: y and dx keep their bits, or become 0. */
export async function checkRowsOutside(problem: Problem): Promise<void> {
  const { tokens, dIn, dOut } = problem
  const c = makeCase({ ...problem, offsets: [4, 4, 4], seed: 3 })
  for (const outputs of ['add', 'overwrite'] as const) {
    const { values, old } = await run(c, { outputs, hasDeviceOffsets: true })
    for (const [name, columns] of [
      ['y', dOut],
      ['dx', dIn],
    ] as const) {
      const expected = outputs === 'add' ? old[name] : new Float32Array(tokens * columns)
      // A sum with -0 is 0.
      expect(
        values[name]?.map((value) => value + 0),
        `${name}, ${outputs}`,
      ).toEqual(expected)
    }
  }
}

/** Valid offsets give the same bits as on the host. */
export async function checkValidOffsets(problem: Problem): Promise<void> {
  const c = validCase(problem, 3, 5)
  const [host, device] = [await run(c), await run(c, { hasDeviceOffsets: true })]
  for (const [name, values] of Object.entries(host.values)) {
    expectSameBits(name, device.values[name as keyof typeof device.values] as Float32Array, values)
  }
}
