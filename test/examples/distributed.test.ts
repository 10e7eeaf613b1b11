/**
 * examples/distributed on few sentences, as `npm run example:distributed` and as mpirun run it.
 *
 * @project mpi
 * @long
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LilyModel } from 'lily-kernels'
import { afterAll, describe, expect, test } from 'vitest'
import { type Results, resultsText } from '../../examples/distributed/results.js'
import { program, readReport, type Report, run as runProgram, skipWithoutPackages } from '../support/example.js'
import { libraries, missingLibrary, skipWithout } from '../support/mpi.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-distributed-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
skipWithoutPackages()

/** Two full batches in each epoch, and one of a single sentence, of which the second rank has none. */
const SIZE = ['--sentences', '65', '--epochs', '2']
const STEPS = 6

/** Runs `node main.ts` or `mpirun node train.ts`. */
const run = (command: readonly string[], env: Readonly<Record<string, string>> = {}) =>
  // In containers the TCP of Open MPI prints warnings about their networks.
  runProgram(command, { OMPI_MCA_btl: 'self,sm', ...env })

const node = (file: string, options: readonly string[]) => program(`distributed/${file}`, options)

describe.for(libraries)('with $name', ({ library }) => {
  test('the losses of 1 and 2 ranks coincide', async ({ skip }) => {
    skipWithout(skip, library)
    const output = join(folder, library.name)
    const { code, stdout, stderr } = await run(
      node('main.ts', ['--mpirun', library.launcher, '--ranks', '1,2', ...SIZE, '--output', output]),
    )
    expect(code, stderr).toBe(0)
    const report = join(output, 'report.html')
    const { html, page, results } = readReport(output) as Report<Results>

    const [one, two] = results.jobs
    expect(results.jobs.map(({ ranks }) => ranks)).toEqual([1, 2])
    expect(one.losses).toHaveLength(STEPS)
    // A head of zeros: all probabilities are 1/2.
    expect(one.losses[0]).toBeCloseTo(Math.LN2, 6)
    expect(Math.min(...one.losses)).toBeLessThan(one.losses[0] - 0.2)
    for (const [step, loss] of two.losses.entries()) {
      expect(Math.abs(loss - one.losses[step]), `step ${step + 1}`).toBeLessThan(5e-6)
    }
    for (const { library: name, isEqual, tokens, seconds, averaging, waiting } of results.jobs) {
      expect(name).toMatch(library.version)
      expect(isEqual).toBe(true)
      expect(tokens).toBe(one.tokens)
      expect(averaging + waiting).toBeLessThan(seconds)
    }
    expect(two.averaging).toBeGreaterThan(0)
    const adapters = await Promise.all([1, 2].map((n) => LilyModel.fromPretrained(join(output, `adapter-of-${n}`))))
    const [first, second] = adapters.map((adapter) => [...adapter.parameters().values()].map(({ value }) => value.data))
    for (const [i, values] of first.entries()) {
      for (const [j, value] of (values as Float32Array).entries()) {
        if (Math.abs(value - (second[i] as Float32Array)[j]) > 1e-3) expect(second[i][j]).toBe(value)
      }
    }

    // One line for each job, from one rank: no bar, because there is no terminal.
    expect(stderr.trim().split('\n')).toEqual(['1 rank', '2 ranks', `report: ${report}`])
    expect(stdout).toBe(`${resultsText(results)}\n`)
    expect(stdout).toMatch(/^The losses of 1 and 2 ranks differ by at most \d\.\de-\d+ \(step \d\)\.$/m)

    expect(page.querySelector('h1').textContent).toBe('Training on 1 and 2 ranks')
    const [difference] = /The losses of 1 and 2 ranks differ .*\./.exec(stdout)!
    expect(html).toContain(difference)
    for (const text of [results.machine, one.library!]) {
      expect(page.querySelector('header').textContent).toContain(text)
    }
    const titles = Array.from(page.querySelectorAll('figure h3'), ({ textContent }) => textContent)
    expect(titles).toEqual(['Loss', 'Difference of the losses', 'Tokens per second', 'Milliseconds per step'])
    expect([...page.querySelectorAll('figure svg')]).toHaveLength(titles.length)
    expect([...page.querySelectorAll('tbody tr')]).toHaveLength(2)
    expect([...page.querySelectorAll('link, img, iframe, script[src]')]).toEqual([])
    expect(html).not.toMatch(/@import|url\(|NaN/)
  })
})

// The project runs where there is at least one of them.
const { library } = libraries.find(({ name }) => missingLibrary(name) === undefined)!

test('a job that mpirun starts prints once', async () => {
  const { launcher, options } = library
  const output = join(folder, `${library.name}-job`)
  const job = [launcher, ...options, '-n', '2', ...node('train.ts', [...SIZE, '--output', output])]
  const { code, stdout, stderr } = await run(job)
  expect(code, stderr).toBe(0)
  expect(stderr.match(/^step \d of 6: loss 0\.\d{3}$/gm), stderr).toHaveLength(STEPS)
  expect(stdout.match(/^ranks +threads each/gm), stdout).toHaveLength(1)
  expect(stdout).toContain('values of all ranks equal to the bit')
  expect((await LilyModel.fromPretrained(output)).layers.size).toBe(6)
})

test('says why a job fails', async () => {
  const command = node('main.ts', ['--mpirun', library.launcher, '--ranks', '2', '--output', folder])
  const { code, stdout, stderr } = await run(command, { LILY_MPI_LIBRARY: join(folder, 'none.so') })
  expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' })
  expect(stderr).toContain('correct or unset LILY_MPI_LIBRARY')
  expect(stderr).toMatch(/^error: the job of 2 ranks failed with exit code \d+; its messages are above$/m)
})

test('a wrong option of a job is one message', async () => {
  const job = [library.launcher, ...library.options, '-n', '2', ...node('train.ts', ['--sentence', '3'])]
  const { code, stderr } = await run(job)
  expect(code).toBe(1)
  expect(stderr.match(/^error: .*$/gm)).toEqual([
    "error: Unknown option '--sentence'; the options are --sentences N, --epochs N, --output FOLDER and --json",
  ])
})

test('refuses a single step, which is not timed, and a training without held-out sentences', async () => {
  const output = join(folder, 'refused')
  const [one, all] = await Promise.all(
    [
      ['--sentences', '32', '--epochs', '1'],
      ['--sentences', '100000'],
    ].map((options) => run(node('train.ts', [...options, '--output', output]))),
  )
  for (const { code, stdout } of [one, all]) expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(one.stderr).toMatch(/^error: expected two steps or more, .*pass --sentences 33/m)
  expect(all.stderr).toMatch(/^error: expected fewer sentences than the \d+ that there are/m)
  expect(existsSync(output)).toBe(false)
})

test('one process without mpirun is a job of one rank', async () => {
  const output = join(folder, 'one')
  const { code, stdout, stderr } = await run(
    node('train.ts', ['--sentences', '33', '--epochs', '1', '--output', output]),
  )
  expect(code, stderr).toBe(0)
  expect(stdout).toContain('without mpirun: one process')
})

test.each([
  [['--mpirun', 'no-such-program'], /^error: no-such-program was not found: .*openmpi-bin or mpich/],
  [['--ranks', '1,0'], /^error: --ranks: expected a whole number from 1, got 0; the options are --ranks N,N/],
])('refuses %s', async (options, message) => {
  const { code, stdout, stderr } = await run(node('main.ts', options))
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(message)
})
