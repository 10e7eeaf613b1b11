/** n ranks with a share of the batch each compute what one process computes with the whole batch. */
import { describe, expect, test } from 'vitest'
import { AdamW } from '../../lib/index.js'
import { relativeError } from '../support/compare.js'
import { answersOf, LIBRARIES, type Library, libraries, type Skip, skipWithout } from '../support/mpi.js'
import { addGradients, createModel, type Kind, KINDS, numbersOf, SETTINGS, shareOf } from '../support/mpi-training.js'
import type { Answer } from './programs/training.js'

const STEPS = 4

/** What one process computes: gradients of the first batch, norms and values of the steps. */
function trainAlone(kind: Kind) {
  const model = createModel(kind)
  addGradients(model, kind, shareOf(0, 0, 1))
  const gradients = numbersOf(model, 'grad')
  model.zeroGrad()
  const start = numbersOf(model, 'value')
  const optimiser = new AdamW(model.parameters(), SETTINGS)
  const norms: number[] = []
  for (let step = 0; step < STEPS; step++) {
    addGradients(model, kind, shareOf(step, 0, 1))
    optimiser.step({ lrScale: 1 - step / 10 })
    optimiser.zeroGrad()
    norms.push(optimiser.gradNorm!.data[0])
  }
  return { gradients, norms, values: numbersOf(model, 'value'), start }
}

const jobs = new Map<string, Promise<Answer[]>>()
function jobOf(library: Library, ranks: number): Promise<Answer[]> {
  const key = `${library.name} ${ranks}`
  const job = jobs.get(key) ?? answersOf<Answer>('training', { library, ranks })
  jobs.set(key, job)
  return job
}

/** The largest relative error of an array by name. */
function errorOf(actual: ReadonlyMap<string, Float32Array>, expected: ReadonlyMap<string, Float32Array>): number {
  expect([...actual.keys()]).toEqual([...expected.keys()])
  return Math.max(...Array.from(expected, ([name, numbers]) => relativeError(actual.get(name)!, numbers)))
}

/** The update since the start, in which an error of the gradients is not small beside the values. */
const updatesOf = (values: ReadonlyMap<string, Float32Array>, start: ReadonlyMap<string, Float32Array>) =>
  new Map(Array.from(values, ([name, numbers]) => [name, numbers.map((value, i) => value - start.get(name)![i])]))

const floatsIn = (bytes: Uint8Array | undefined) => [...new Float32Array(bytes!.slice().buffer)]

const SIZES = [1, 2, 4]

describe.for(libraries)('with $name', ({ library }) => {
  describe.for(SIZES)('%i ranks', (ranks) => {
    const start = async (skip: Skip) => {
      skipWithout(skip, library)
      return jobOf(library, ranks)
    }

    test.for(KINDS.filter((kind) => kind !== 'batch'))(
      'have the gradients and steps of one process: %s',
      async (kind, { skip }) => {
        const answers = await start(skip)
        const alone = trainAlone(kind)
        const { gradients, norms, values } = answers[0].kinds.get(kind)!
        expect(errorOf(gradients, alone.gradients)).toBeLessThan(2e-6)
        expect(relativeError(norms, alone.norms)).toBeLessThan(2e-6)
        expect(errorOf(updatesOf(values, alone.start), updatesOf(alone.values, alone.start))).toBeLessThan(1e-5)
      },
    )

    test('have the same bits, with 16-bit values as well', async ({ skip }) => {
      const [first, ...others] = await start(skip)
      for (const other of others) {
        expect(other.kinds).toEqual(first.kinds)
        expect(other.sixteenBits).toEqual(first.sixteenBits)
      }
      for (const { values } of first.sixteenBits.values()) {
        for (const numbers of values.values()) expect(numbers.every(Number.isFinite)).toBe(true)
      }
    })

    test('compute another mixture each with batch routing', async ({ skip }) => {
      const [{ kinds }] = await start(skip)
      const error = errorOf(kinds.get('batch')!.gradients, trainAlone('batch').gradients)
      if (ranks === 1) expect(error).toBeLessThan(2e-6)
      else expect(error).toBeGreaterThan(1e-3)
    })

    test('treat a gradient alike that is infinite on one of them', async ({ skip }) => {
      const answers = await start(skip)
      const unchanged = new Map([
        ['p0', new Uint8Array(new Float32Array(5).fill(1).buffer)],
        ['p1', new Uint8Array(new Float32Array(3).fill(2).buffer)],
      ])
      for (const { notFinite } of answers) {
        const [refusal] = notFinite.error.refusals
        expect(refusal).toMatchObject({
          code: 'ERR_LILY_ARGUMENT',
          message: expect.stringContaining('p1.grad') as string,
        })
        expect(refusal).toEqual(answers[0].notFinite.error.refusals[0])
        expect(notFinite.error).toMatchObject({ bytes: unchanged, stepCount: 0, skippedSteps: 1 })
        expect(notFinite.skip).toEqual({ refusals: [null], bytes: unchanged, stepCount: 0, skippedSteps: 1 })
        expect(notFinite.ignore).toMatchObject({ refusals: [null], stepCount: 1, skippedSteps: 0 })
        expect(notFinite.ignore.bytes).toEqual(answers[0].notFinite.ignore.bytes)
        const numbers = (name: string) => floatsIn(notFinite.ignore.bytes.get(name))
        expect(numbers('p1').map(Number.isNaN)).toEqual([false, true, false])
        expect(numbers('p0').every((value) => value < 1)).toBe(true)
      }
    })

    test("add gradients with weight 'sum'", async ({ skip }) => {
      for (const { summed } of await start(skip)) {
        const numbers = floatsIn(summed.get('p0'))
        expect(numbers).toEqual(new Array(5).fill((ranks * (ranks + 1)) / 2))
      }
    })

    test('refuse a step before the last one is over', async ({ skip }) => {
      for (const { twice } of await start(skip)) expect(twice?.message).toMatch(/await/)
    })
  })
})

/** With the same number of ranks, the bits are those of both libraries. */
test.for(SIZES)('%i ranks have the same bits with both libraries', async (ranks, { skip }) => {
  skipWithout(skip, ...LIBRARIES)
  const [left, right] = await Promise.all(libraries.map(({ library }) => jobOf(library, ranks)))
  expect(left.map(({ kinds, sixteenBits }) => [kinds, sixteenBits])).toEqual(
    right.map(({ kinds, sixteenBits }) => [kinds, sixteenBits]),
  )
})
