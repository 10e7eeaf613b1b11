/**
 * The prebuilt addon and the built package in Node.js for Windows, under Wine. docs/platforms.md says what Wine does not show.
 *
 * @long
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { asyncConsumer, consumer, expected, MODULES, suitesConsumer, workersConsumer } from '../support/consumer.js'
import { bundleSuites, expectAllPassed } from '../support/portable/bundle.js'
import type { Outcome } from '../support/portable/run.js'
import { isLong } from '../support/runs.js'
import { bundleSuite } from './bundle.js'
import { Wine, windowsPath } from './wine.js'

// Inside the checkout, where the name of the package resolves to dist/.
const folder = mkdtempSync(join(packageRoot, 'build', 'windows-'))
let wine: Wine
beforeAll(async () => {
  wine = new Wine()
  const [, suites] = await Promise.all([wine.start(), bundleSuites()])
  writeFileSync(join(folder, 'suites.mjs'), suites)
}, 600_000)
afterAll(() => {
  wine?.remove()
  rmSync(folder, { recursive: true })
})

/** Runs a file of the folder, which prints JSON. */
async function run(file: string, env: NodeJS.ProcessEnv = {}): Promise<unknown> {
  const { code, stdout, stderr } = await wine.run([windowsPath(join(folder, file))], env)
  expect(code, stderr).toBe(0)
  return JSON.parse(stdout)
}

describe.concurrent('the built package', () => {
  test.each<[title: string, file: string, source: string, results: unknown]>([
    ['ESM', MODULES.ESM.file, consumer('ESM'), expected],
    ['CJS', MODULES.CJS.file, consumer('CJS'), expected],
    ['async calls', 'async.mjs', asyncConsumer, expected],
    ['four concurrent workers', 'workers.mjs', workersConsumer, new Array(5).fill(expected)],
  ])('%s', async (_, file, source, results) => {
    writeFileSync(join(folder, file), source)
    expect(await run(file)).toEqual(results)
  })

  test.each([
    ['portable', 'portable'],
    ['avx2', 'avx2'],
    ['wasm-relaxed', 'wasm-relaxed'],
  ])('the golden cases and the modes on %s', async (isa, simd) => {
    const file = `suites-${isa}.mjs`
    writeFileSync(join(folder, file), suitesConsumer(null))
    const { results, ...backend } = (await run(file, { LILY_CPU_ISA: isa })) as { results: Outcome[]; simd: string }
    expect(backend.simd).toBe(simd)
    expectAllPassed(results)
  })
})

interface Suite {
  /** A test file, or a folder of them. */
  readonly suite: string
  /** Parts of the names of the tests that run; by default all. */
  readonly only?: readonly string[]
  /** A part of the name of each test that does not run, and why. */
  readonly omitted?: Readonly<Record<string, string>>
  readonly env?: NodeJS.ProcessEnv
}

const NO_LINKS = 'Wine makes no symbolic links that lead nowhere'
const suites: Suite[] = [
  { suite: 'operations/golden' },
  { suite: 'operations/modes' },
  { suite: 'operations/property' },
  { suite: 'operations/property', env: { LILY_CPU_ISA: 'avx2' } },
  { suite: 'operations/async' },
  { suite: 'operations/linear' },
  { suite: 'tensor' },
  { suite: 'model' },
  { suite: 'refusals/operations' },
  { suite: 'refusals/binding' },
  { suite: 'refusals/models' },
  { suite: 'refusals/files' },
  { suite: 'binding/addon' },
  { suite: 'cpu/workers' },
  {
    suite: 'checkpoint/pretrained',
    omitted: { 'reports the error of the file system, with the path': NO_LINKS },
  },
  { suite: 'checkpoint/files' },
  { suite: 'checkpoint/safetensors' },
  { suite: 'checkpoint/state' },
  { suite: 'checkpoint/errors' },
  { suite: 'checkpoint/hostile', omitted: { 'a link to a blob': NO_LINKS } },
  { suite: 'checkpoint/beside' },
  { suite: 'checkpoint/lora-folders' },
  { suite: 'checkpoint/disk/paths' },
  { suite: 'checkpoint/disk/windows' },
  {
    suite: 'checkpoint/disk/whole-saves',
    omitted: { 'puts back what it has replaced': 'Wine renames an open file that was removed' },
  },
  {
    suite: 'cli/doctor',
    omitted: {
      'says that the package does not work if': 'it replaces modules',
      'WebAssembly has one thread': 'it replaces a part of the package',
      'WebAssembly reports a factor': 'it replaces modules',
      WebGPU: 'its packages are programs for Linux',
    },
  },
  { suite: 'cli/export' },
  // Each command takes a second.
  { suite: 'cli/inspect', only: ['with samples, writes a table', 'a LoRA adapter', 'writes only JSON'] },
  { suite: 'cli/bench', only: ['--json without a file', 'is rejected before the measurement', 'bench with'] },
]

/** Random problems, kills and saves: they repeat what runs on Linux. */
const FEW = isLong ? {} : { FAST_CHECK_RUNS: '8', LILY_TEST_KILLS: '4', LILY_TEST_SAVES: '8' }

const titled = suites.map((suite) => [[suite.suite, ...Object.values(suite.env ?? {})].join(' '), suite] as const)

describe.concurrent('the suite', () => {
  test.each(titled)('%s', async (title, { suite, only = [''], omitted = {}, env }) => {
    const file = `${title.replaceAll(/\W/g, '-')}.mjs`
    const left = Object.keys(omitted).map((name) => `(?!.*${name})`)
    await bundleSuite(suite, new RegExp(`^${left.join('')}.*(${only.join('|')})`), join(folder, file))
    const results = (await run(file, { ...FEW, ...env })) as Outcome[]
    expect(results.filter(({ errors }) => errors.length > 0)).toEqual([])
    const ran = results.filter(({ skipped }) => skipped === undefined)
    for (const part of only) expect(ran.filter(({ name }) => name.includes(part)).length, part).toBeGreaterThan(0)
    const reasons = [...Object.values(omitted), ...results.flatMap(({ skipped }) => skipped ?? [])]
    for (const reason of new Set(reasons)) if (reason !== '') console.log(`${title}: skipped: ${reason}`)
  })
})
