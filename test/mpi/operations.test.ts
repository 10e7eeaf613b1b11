/**
 * Broadcasts, gathers and barriers, on n ranks and without a launcher.
 *
 * @tsan
 */
import { describe, expect, test } from 'vitest'
import { AdamW, LilyModel, LoraModel, tensor } from '../../lib/index.js'
import { isSanitized } from '../support/backend.js'
import { answersOf, libraries, skipWithout, runJob } from '../support/mpi.js'
import type { Answer as Memory } from './programs/memory.js'
import type { Answer } from './programs/operations.js'

const bytesOf = ({ data }: { data: ArrayBufferView }) =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
const valuesOf = (model: LilyModel | LoraModel) =>
  new Map(Array.from(model.parameters(), ([name, { value }]) => [name, bytesOf(value)]))
const floats = (first: number, length: number) => Float32Array.from({ length }, (_, i) => first + i)
const bytesIn = (array: Float32Array | Uint16Array) => new Uint8Array(array.buffer)

const layers = [0, 1].map((l) => ({ name: `${l}.proj`, inFeatures: 6, outFeatures: 5 }))
const targetModules = ['proj']

/** What a world of n ranks answers, of which only the library may differ. */
function expectAnswers(answers: readonly Answer[]): void {
  const size = answers.length
  const lily = LilyModel.create({ layers, config: { r: 4, targetModules, initWeights: false }, seed: 10 })
  const lora = LoraModel.create({ layers, config: { r: 4, targetModules }, seed: 20, dtype: 'bfloat16' })
  const trained = new Map([
    ['float32', { value: tensor(floats(0, 7), [7]), grad: tensor(floats(50, 7), [7]) }],
    ['mixed', { value: tensor(Uint16Array.from(floats(3, 5)), [5], 'bfloat16'), grad: tensor(floats(60, 5), [5]) }],
    ['scalar', { value: tensor(floats(9, 1), [1]), grad: tensor(floats(70, 1), [1]) }],
  ])
  const optimiser = new AdamW(trained, { lr: 0.1 })
  for (let i = 0; i < 3; i++) optimiser.step()
  const moments = Object.entries(optimiser.state().parameters)
  const range = Array.from({ length: size }, (_, rank) => rank)
  const mean = range.reduce((sum, rank) => sum + 100 * rank, 0) / size

  for (const [rank, answer] of answers.entries()) {
    expect(answer.world).toMatchObject({ rank, size })
    expect(answer.broadcast.lily).toEqual(valuesOf(lily))
    expect(answer.broadcast.lora).toEqual(valuesOf(lora))
    expect(answer.broadcast.map).toEqual(
      new Map([
        ['float32', bytesIn(floats(0, 7))],
        ['empty', new Uint8Array(0)],
        ['mixed', bytesIn(Uint16Array.from(floats(3, 5)))],
        ['scalar', bytesIn(floats(9, 1))],
      ]),
    )
    expect(answer.broadcast.gradients.get('float32'), 'of this rank').toEqual(bytesIn(floats(50 + 100 * rank, 7)))
    expect([...answer.dropout], 'the position of rank 0, and a seed of its own').toEqual([30, rank, 5, 0])
    expect(answer.optimiser).toEqual({
      step: 3,
      moments: [
        new Map(moments.map(([name, { expAvg }]) => [name, bytesOf(expAvg)])),
        new Map(moments.map(([name, { expAvgSq }]) => [name, bytesOf(expAvgSq)])),
      ],
    })
    // A world of one writes nothing.
    if (size === 1) expect(answer.stale).toBeNull()
    else expect(answer.stale).toMatchObject({ code: 'ERR_LILY_ARGUMENT' })
    expect(answer.gathered).toEqual([
      range.map((rank) => rank + 0.5),
      range.map((rank) => (rank === 0 ? NaN : -0)),
      range.map((rank) => `rank ${rank} ✓`.repeat(rank + 1)),
      range.map(() => undefined),
      range.map((rank) => ({
        rank,
        list: Array.from({ length: rank * 40_000 }, (_, i) => i),
        nested: new Map([[rank, new Set([1])]]),
      })),
      range.map((rank) => Float64Array.of(rank, Infinity)),
    ])
    expect(answer.barrier.after).toBeGreaterThanOrEqual(Math.max(...answer.barrier.before))
    expect(answer.inOrder).toEqual([range, range.map(String), range.map((rank) => ({ rank }))])
    for (const [i, value] of answer.notAwaited.entries()) expect(value).toBeCloseTo(50 + i + mean, 3)
    expect(answer.noWeight[0], 'all weights are 0').toEqual({
      code: 'ERR_LILY_ARGUMENT',
      message: 'weight: the weights of all ranks are 0; leave this step out on all of them',
    })
    expect(answer.noWeight).toEqual([answers[0].noWeight[0], null])
    // Without a launcher each thread is a world of one.
    expect(answer.worker).toEqual({
      computed: 2,
      init:
        answer.world.library === null
          ? null
          : { code: 'ERR_LILY_ARGUMENT', message: expect.stringContaining('another thread of this process') as string },
    })
    expect(answer.trap, 'MPI leaves the signal to V8').toMatch(/RuntimeError.*out of bounds/)
  }
}

describe.for(libraries)('with $name', ({ library }) => {
  // Races do not depend on the number of ranks.
  test.for(isSanitized ? [2] : [1, 2, 4])('%i ranks', async (ranks, { skip }) => {
    skipWithout(skip, library)
    const answers = await answersOf<Answer>('operations', { library, ranks })
    for (const { world } of answers) expect(world.library).toMatch(library.version)
    expectAnswers(answers)
  })
})

test.for(libraries)('memory that a call has: $name', async ({ library }, { skip }) => {
  skipWithout(skip, library)
  const [first, second] = await answersOf<Memory>('memory', { library, ranks: 2 })
  expect([second.pending, second.over], 'arrays exist until it is over').toEqual([3, 0])
  const transferred = (argument: string) => ({
    code: 'ERR_LILY_ARGUMENT',
    message: expect.stringMatching(`^${argument}: .*transferred`) as string,
  })
  expect([first.sent, second.sent]).toEqual([null, null])
  expect([first.received, second.received]).toEqual([null, transferred('a.value')])
  expect([first.average, second.average]).toEqual([null, transferred('a.grad')])
  expect([first.disposed, second.disposed?.code]).toEqual([null, 'ERR_LILY_DISPOSED'])
  const means = [1, 2, 3, 4].map((mean) => [mean, mean, mean, mean])
  expect([first.repeated, second.repeated]).toEqual([means, means])
  // The rank that is refused has sent nothing, and comes to the barrier.
  expect(second.before).toMatchObject({
    code: 'ERR_LILY_ARGUMENT',
    message: expect.stringMatching('^a.grad: ') as string,
  })
  expect(first.before?.message).toContain('rank 1 calls barrier(), rank 0 averageGradients()')
})

test('without a launcher there is a world of one, which opens no library', async () => {
  const env = { LILY_MPI_LIBRARY: '/nothing/libmpi.so' }
  const answers = await answersOf<Answer>('operations', { library: null, env })
  expect(answers[0].world).toEqual({ rank: 0, size: 1, library: null })
  expectAnswers(answers)
})

const PACKAGE = `
  const mpi = require('lily-kernels/mpi')
  mpi.init().then(async ({ rank, size }) => {
    const ranks = await mpi.allGather(rank)
    await mpi.finalize()
    console.log(size + ': ' + ranks.join())
  })`

// guides.test.ts imports it.
test.for(libraries)('the built package has the entry for require(): $name', async ({ library }, { skip }) => {
  skipWithout(skip, library)
  skip(isSanitized, 'the same addon is tested above')
  const { code, stdout, stderr, left } = await runJob('', { library, ranks: 2, command: ['-e', PACKAGE] })
  expect({ code, stderr, left }).toEqual({ code: 0, stderr: '', left: [] })
  expect(stdout.trim().split('\n')).toEqual(['2: 0,1', '2: 0,1'])
})
