/** A job that was killed continues from what rank 0 has saved: to the bit on the same number of ranks. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { relativeError } from '../support/compare.js'
import { answersOf, libraries, skipWithout, runJob } from '../support/mpi.js'
import { createModel, numbersOf } from '../support/mpi-training.js'
import { temporaryFolder } from '../support/temporary.js'
import type { Answer, Input } from './programs/resume.js'

const temporary = temporaryFolder()
const steps = 6

describe.for(libraries)('with $name', ({ library }) => {
  test('resumes a job of 2 ranks on 2, and on 1 and 4', async ({ skip }) => {
    skipWithout(skip, library)
    const folder = join(temporary, library.name)
    const run = (ranks: number, input: Omit<Input, 'folder' | 'steps'>) =>
      answersOf<Answer>('resume', { library, ranks, input: { folder, steps, ...input } })

    const killed = await runJob('resume', {
      library,
      ranks: 2,
      input: { folder, steps, saveAfter: 2, killIn: 4 } satisfies Input,
    })
    expect(killed).toMatchObject({ left: [], answers: new Map() })
    expect(library.hidesKills ? [null] : [null, 0]).not.toContain(killed.code)

    const [[whole], all, first] = [await run(2, {}), await run(2, { resume: 'all' }), await run(2, { resume: 'first' })]
    expect(whole.stepCount).toBe(steps)
    for (const answer of [...all, ...first]) expect(answer).toEqual(whole)

    const start = numbersOf(createModel('sequence'), 'value')
    for (const ranks of [1, 4]) {
      for (const { values, stepCount } of await run(ranks, { resume: 'all' })) {
        expect(stepCount).toBe(steps)
        for (const [name, numbers] of whole.values) {
          const updates = [values.get(name)!, numbers].map((array) =>
            array.map((value, i) => value - start.get(name)![i]),
          )
          expect(relativeError(updates[0], updates[1])).toBeLessThan(1e-5)
        }
      }
    }
  })
})
