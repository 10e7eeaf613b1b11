/**
 * n ranks with a share of the batch each compute what one process computes with the whole batch. test/optimiser/distributed.test.ts
 * has what AdamW makes of averages.
 */
import { describe, expect, test } from 'vitest'
import { AdamW } from '../../lib/index.js'
import { relativeError } from '../support/compare.js'
import { answersOf, LIBRARIES, type Library, libraries, skipWithout } from '../support/mpi.js'
import {
  addGradients,
  createModel,
  type Kind,
  KINDS,
  numbersOf,
  SETTINGS,
  shareOf,
  STEPS,
} from '../support/mpi-training.js'
import type { Answer } from './programs/training.js'

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

const SIZES = [2, 4]

describe.for(libraries)('with $name', ({ library }) => {
  test.for(SIZES)(
    '%i ranks have the bits of each other, and the gradients and steps of one process',
    async (ranks, { skip }) => {
      skipWithout(skip, library)
      const [first, ...others] = await jobOf(library, ranks)
      for (const other of others) expect(other).toEqual(first)
      for (const kind of KINDS) {
        const alone = trainAlone(kind)
        const { gradients, norms, values } = first.kinds.get(kind)!
        const error = errorOf(gradients, alone.gradients)
        // Each rank averages over its own tokens.
        if (kind === 'batch') expect(error, kind).toBeGreaterThan(1e-3)
        else {
          expect(error, kind).toBeLessThan(2e-6)
          expect(relativeError(norms, alone.norms), kind).toBeLessThan(2e-6)
          const updates = [values, alone.values].map((numbers) => updatesOf(numbers, alone.start))
          expect(errorOf(updates[0], updates[1]), kind).toBeLessThan(1e-5)
        }
      }
      for (const { values } of first.sixteenBits.values()) {
        for (const numbers of values.values()) expect(numbers.every(Number.isFinite)).toBe(true)
      }
    },
  )
})

/** With the same number of ranks, the bits are those of both libraries. */
test.for(SIZES)('%i ranks have the same bits with both libraries', async (ranks, { skip }) => {
  skipWithout(skip, ...LIBRARIES)
  const [left, right] = await Promise.all(libraries.map(({ library }) => jobOf(library, ranks)))
  expect(left).toEqual(right)
})
