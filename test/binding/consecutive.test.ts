/**
 * The binding keeps the size of the workspace of the last call. A call whose problem differs in a single number has a
 * workspace of its own size, whichever of the two comes first.
 */
import { expect, test } from 'vitest'
import { linearBackward, linearForward, loraForward, tensor } from '../../lib/index.js'
import { makeCase, type Spec } from '../support/cases.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { run, type Values } from '../support/run.js'

const lengths = [70]
const base: Spec = { routing: 'sequence', tokens: 70, dIn: 96, dOut: 96, rank: 16, experts: 3, lengths, seed: 1 }
const half: Spec = { ...base, lengths: [30, 40], activations: 'bfloat16', parameters: 'float32' }

test.each<[string, Spec, Partial<Spec>]>([
  ['tokens', base, { tokens: 700, lengths: [700] }],
  ['d_in', base, { dIn: 900 }],
  ['d_out', base, { dOut: 900 }],
  ['rank', base, { rank: 130 }],
  ['experts', base, { experts: 20 }],
  ['groups', base, { lengths: [10, 20, 0, 40] }],
  ['routing', { ...base, routing: 'batch', lengths: undefined }, { routing: 'token' }],
  ['type of the activations', base, { activations: 'bfloat16', parameters: 'float32' }],
  ['type of the parameters', half, { parameters: 'bfloat16' }],
  ['precision', half, { precision: 'high' }],
])('another %s', async (_, spec, change) => {
  const cases = [makeCase(spec), makeCase({ ...spec, ...change })]
  const expected: Values[] = []
  for (const [turn, i] of [0, 1, 0, 1].entries()) {
    const { values } = await run(cases[i])
    if (turn < 2) expected.push(values)
    for (const [name, value] of Object.entries(values)) expectSameBits(name, value, expected[i][name as 'y']!)
  }
  expect(Object.keys(expected[0])).toContain('dx')
})

// Each direction by itself: a call of the other one would come between the two.
test.each([
  ['tokens', { tokens: 700 }],
  ['d_in', { dIn: 900 }],
  ['d_out', { dOut: 900 }],
])('a frozen layer with another %s', (_, change) => {
  const sizes = { tokens: 20, dIn: 96, dOut: 200 }
  const layers = [sizes, { ...sizes, ...change }].map(({ tokens, dIn, dOut }) => {
    const [x, weight, dy] = [
      [tokens, dIn],
      [dOut, dIn],
      [tokens, dOut],
    ].map(([rows, columns], i) => tensor(gaussian(randomFrom(i), rows * columns), [rows, columns]))
    return { x, weight, dy }
  })
  for (const call of [
    ({ x, weight }: (typeof layers)[number]) => linearForward({ x, weight }).y,
    ({ dy, weight }: (typeof layers)[number]) => linearBackward({ dy, weight }).dx,
  ]) {
    const [first, second] = layers.map(call)
    expectSameBits('of the first', call(layers[0]).data, first.data)
    expectSameBits('of the second', call(layers[1]).data, second.data)
  }
})

// Rows that are one run need less than others, and so do rows without factors.
test.each([
  ['order of the rows', { adapterOf: [0, 1, 0, 1] }],
  ['factor', { scale: [1, 2, 3, 4] }],
  ['number of adapters', { rankOffsets: [0, 4, 8, 16], adapterOf: [0, 1, 1, 2] }],
  ['rank', { rankOffsets: [0, 15, 16] }],
])('a list with another %s', (_, change) => {
  const random = randomFrom(1)
  const [tokens, rows, rank, width] = [4, 40, 16, 300]
  const x = tensor(gaussian(random, tokens * rows * width), [tokens, rows, width])
  const a = tensor(gaussian(random, rank * width), [rank, width])
  const b = tensor(gaussian(random, width * rank), [width, rank])
  const lists = [{}, change].map((of) => ({ rankOffsets: [0, 8, 16], adapterOf: [0, 0, 1, 1], ...of }))
  const call = (list: (typeof lists)[number]) => loraForward({ x, a, b }, { ...list, save: false }).y.data
  const expected = lists.map(call)
  for (const i of [0, 1, 0]) expectSameBits('y', call(lists[i]), expected[i])
})
