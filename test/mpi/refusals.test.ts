/** Ranks that differ: an operation is refused on all of them alike, with the first difference, and writes nothing. */
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { backends } from '../../lib/index.js'
import { answersOf, libraries, programPath, runJob, skipWithout } from '../support/mpi.js'
import type { Answer, Input } from './programs/refusals.js'

/** What the message about each difference says besides the two ranks. */
const MESSAGES: Readonly<Record<string, readonly RegExp[]>> = {
  name: [/'z[.']/, /'b[.']/],
  order: [/'a[.']/, /'b[.']/],
  fewer: [/'c[.']/],
  more: [/'d[.']/],
  shape: [/'b[.']/, /\[5, 6\]/, /\[6, 5\]/],
  dimensions: [/'a[.']/, /\[24\]/, /\[4, 6\]/],
  'type of the value': [/'b[.']/, /float16/, /bfloat16/],
  'type of the gradient': [/'b[.']/, /grad/, /float32/, /bfloat16/],
  bucketBytes: [/bucketBytes/, /4096/, /8192/],
  sum: [/sum/],
  values: [/values/, /await broadcast\(model\)/, /the same model/],
  lr: [/0\.2/, /0\.1/, /same options/],
  finalize: [/barrier\(\)/, /finalize\(\)/],
  barrier: [/barrier\(\)/, /averageGradients\(\)/],
  gather: [/allGather\(\)/, /broadcast\(\)/],
  broadcast: [/broadcast\(\)/, /averageGradients\(\)/],
  version: [/0\.0\.0-other/, /lily-kernels/],
  optimiser: [/broadcast\(\)|AdamW|optimiser/],
}

function expectRefusals(answers: readonly Answer[], last: number): void {
  for (const [rank, { cases }] of answers.entries()) {
    for (const [name, { refusal, isUnchanged }] of cases) {
      const what = `${name}, on rank ${rank}`
      expect(refusal, what).not.toBeNull()
      expect(refusal?.code, what).toMatch(/^ERR_LILY_/)
      // Each rank begins with the name of what it has called.
      const [own, first] = [refusal, answers[0].cases.get(name)!.refusal].map((each) => ({
        ...each,
        message: each?.message.replace(/^\w+\(\): /, ''),
      }))
      expect(own, `${what} as on rank 0`).toEqual(first)
      expect(isUnchanged, `${what}: nothing is written`).toBe(true)
      const [difference] = name.split(', ')
      const named = name.endsWith('next rank') ? last - 1 : last
      for (const part of [new RegExp(`rank ${named}`), /rank 0/, ...(MESSAGES[difference] ?? [])]) {
        expect(refusal?.message, what).toMatch(part)
      }
    }
  }
}

describe.for(libraries)('with $name', ({ library }) => {
  test.for([2, 4])('one of %i ranks differs', async (ranks, { skip }) => {
    skipWithout(skip, library)
    const input: Input = { last: ranks - 1 }
    const answers = await answersOf<Answer>('refusals', { library, ranks, input })
    expect(answers[0].cases.size).toBeGreaterThan(20)
    expectRefusals(answers, ranks - 1)
  })

  test('one rank has another version of the package', async ({ skip }) => {
    skipWithout(skip, library)
    // In a folder that is a package of its own, with the addon of this one.
    const folder = mkdtempSync(join(packageRoot, 'build', 'mpi-version-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const own = programPath('refusals')
    const other = join(folder, 'program.mjs')
    copyFileSync(own, other)
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'lily-kernels', version: '0.0.0-other' }))
    symlinkSync(join(packageRoot, 'build'), join(folder, 'build'))
    const [first, second] = [own, other].map((path) => JSON.stringify(pathToFileURL(path)))
    const program = `await import((process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK) === '0' ? ${first} : ${second})`
    const { code, stderr, answers } = await runJob('refusals', {
      library,
      ranks: 2,
      input: { last: 1, isOtherVersion: true } satisfies Input,
      command: ['--input-type=module', '-e', program],
    })
    expect(code, stderr).not.toBe(0)
    expect(answers.size).toBe(2)
    expectRefusals([...answers.values()] as Answer[], 1)
  })

  test('one rank has another instruction set', async ({ skip }) => {
    skipWithout(skip, library)
    const { simd } = backends()[0].devices[0]
    skip(simd === 'portable', 'the processor has the portable instruction set only')
    const answers = await answersOf<Answer>('refusals', { library, ranks: 2, input: { last: 1, isa: 'portable' } })
    expectRefusals(answers, 1)
    const { message } = answers[0].cases.get('instruction set')!.refusal!
    expect(message).toContain('portable')
    expect(message).toContain(simd)
    expect(message).toContain('LILY_CPU_ISA')
  })
})
