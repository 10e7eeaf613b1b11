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

/** A part of a name of each test that does not run, and why. */
type Omitted = Readonly<Record<string, string>>

const NO_LINKS = 'Wine makes no symbolic links that lead nowhere'
const suites: [suite: string, omitted?: Omitted, env?: NodeJS.ProcessEnv][] = [
  ['operations/golden'],
  ['operations/modes'],
  ['operations/property'],
  ['operations/property', {}, { LILY_CPU_ISA: 'avx2' }],
  ['operations/async'],
  ['refusals/operations'],
  ['refusals/binding'],
  ['refusals/models'],
  ['refusals/files'],
  ['binding/addon'],
  ['cpu/workers'],
  ['checkpoint/pretrained', { 'reports the error of the file system, with the path': NO_LINKS }],
  ['checkpoint/files'],
  ['checkpoint/safetensors'],
  ['checkpoint/state'],
  ['checkpoint/errors'],
  ['checkpoint/hostile', { 'a link to a blob': NO_LINKS }],
  ['checkpoint/beside'],
  ['checkpoint/lora-folders'],
  ['checkpoint/disk/paths'],
  ['checkpoint/disk/windows'],
  ['checkpoint/disk/whole-saves', { 'puts back what it has replaced': 'Wine renames an open file that was removed' }],
  ['cli/doctor', { 'says that the package does not work if': 'it replaces modules' }],
  ['cli/export'],
]

/** Random problems, kills and saves: they repeat what runs on Linux. */
const FEW = isLong ? {} : { FAST_CHECK_RUNS: '12', LILY_TEST_KILLS: '4', LILY_TEST_SAVES: '8' }

describe.concurrent('the suite', () => {
  test.each(suites)('%s', async (suite, omitted = {}, env = {}) => {
    const file = `${[suite.replaceAll('/', '-'), ...Object.values(env)].join('-')}.mjs`
    const names = Object.keys(omitted)
    const pattern = names.length === 0 ? undefined : new RegExp(`^(?!.*(${names.join('|')}))`)
    await bundleSuite(suite, pattern, join(folder, file))
    const results = (await run(file, { ...FEW, ...env })) as Outcome[]
    expect(results.filter(({ errors }) => errors.length > 0)).toEqual([])
    expect(results.length).toBeGreaterThan(0)
  })
})
