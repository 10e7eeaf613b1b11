/** A job that was killed continues from what rank 0 has saved, to the bit. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { answersOf, libraries, skipWithout, runJob } from '../support/mpi.js'
import { temporaryFolder } from '../support/temporary.js'
import type { Answer, Input } from './programs/resume.js'

const temporary = temporaryFolder()
const steps = 6

describe.for(libraries)('with $name', ({ library }) => {
  test('resumes a job of 2 ranks', async ({ skip }) => {
    skipWithout(skip, library)
    const folder = join(temporary, library.name)
    const run = (input: Omit<Input, 'folder' | 'steps'>) =>
      answersOf<Answer>('resume', { library, ranks: 2, input: { folder, steps, ...input } })

    const killed = await runJob('resume', {
      library,
      ranks: 2,
      input: { folder, steps, saveAfter: 2, killIn: 4 } satisfies Input,
    })
    expect(killed).toMatchObject({ left: [], answers: new Map() })
    expect(library.hidesKills ? [null] : [null, 0]).not.toContain(killed.code)

    const [[whole], all, first] = [await run({}), await run({ resume: 'all' }), await run({ resume: 'first' })]
    expect(whole.stepCount).toBe(steps)
    for (const answer of [...all, ...first]) expect(answer).toEqual(whole)
  })
})
