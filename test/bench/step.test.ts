/**
 * `bench:step`: contenders train alike, and what is measured of them with fake ones. The tests check that times exist, not
 * their values.
 *
 * @long
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseHTML } from 'linkedom'
import { afterAll, expect, test } from 'vitest'
import { type PeerCommand, PeerProcess } from '../../bench/peers/peer-process.js'
import { findPython, pytorch, pytorchEnvironment } from '../../bench/peers/peers.js'
import type { Missing } from '../../bench/peers/protocol.js'
import { type Contender, measureStep, type StepRow } from '../../bench/step/measure.js'
import { stepPage } from '../../bench/step/page.js'
import { adapters, encoders, makeProblem } from '../../bench/step/problem.js'
import { parts, type Reply, type Request } from '../../bench/step/protocol.js'
import { type StepReport, stepMarkdown } from '../../bench/step/report.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'lily-step-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const limits = { seconds: 0, rounds: 1, losses: 5, signal: new AbortController().signal }

const environment = pytorchEnvironment(1, process.env)
const python = findPython(environment)
const node = (name: string): PeerCommand => ({
  command: process.execPath,
  args: ['--import', 'tsx', 'bench/step/tfjs.ts', '--with', name, '--threads', '1'],
  env: { ...process.env, NODE_OPTIONS: '', LILY_NUM_THREADS: '1' },
})
const start = async (name: string, command: PeerCommand) => ({
  name,
  ...(await PeerProcess.start<Request, Reply>(command)),
})

const others: [name: string, PeerCommand | null][] = [
  ['TensorFlow.js', node('tfjs')],
  [
    'PyTorch',
    python === undefined
      ? null
      : { command: python, args: ['bench/step/pytorch.py', '--threads', '1'], env: environment },
  ],
]

test.for(others)('%s trains as this package does', async ([name, command], { skip }) => {
  if (command === null) return skip(`no module torch; to install it: ${pytorch.install}`)
  const contenders = await Promise.all([start('lily-kernels', node('lily-kernels')), start(name, command)])
  try {
    for (const [encoder, adapter] of encoders.flatMap((each) => adapters.map((one) => [each, one] as const))) {
      const missing: Missing[] = []
      const row = await measureStep(contenders, makeProblem(encoder, adapter, 'small'), limits, missing)
      expect(missing).toEqual([])
      // The losses of the first steps agree, and every step changes them.
      expect(new Set(row.losses).size).toBe(limits.losses)
      expect(row.results.map(({ contender }) => contender)).toEqual(['lily-kernels', name])
      for (const { contender, median, parts: found } of row.results) {
        expect(median).toBeGreaterThan(0)
        // PyTorch's other operations include its tape.
        const expected = parts.filter((part) => contender !== 'PyTorch' || part !== 'framework')
        expect(Object.keys(found).sort()).toEqual([...expected].sort())
        expect(Math.min(...Object.values(found))).toBeGreaterThan(0)
      }
    }
  } finally {
    for (const { peer } of contenders) peer.stop()
  }
})

/** A contender that answers with these losses and this time. */
function fake(name: string, losses: number[], seconds: number, log: string[] = []): Contender {
  const answer = (request: Request): Reply => {
    log.push(`${name} ${request.request}`)
    if (request.request === 'losses') return { losses }
    if (request.request === 'sample') return seconds > 0 ? { seconds } : {}
    return { parts: { layers: 0.25, attention: 0.5 } }
  }
  return { name, peer: { request: (request) => Promise.resolve(answer(request)) } }
}
const problem = makeProblem('blocks', 'lora', 'small')

test('contenders are sampled in turn, and ratios are to the first', async () => {
  const log: string[] = []
  const missing: Missing[] = []
  const contenders = [fake('ours', [1, 0.5], 2, log), fake('other', [1.00001, 0.5], 5, log)]
  const row = await measureStep(contenders, problem, { ...limits, rounds: 2 }, missing)
  expect(missing).toEqual([])
  expect(row).toMatchObject({
    encoder: 'blocks',
    adapter: 'lora',
    losses: [1, 0.5],
    results: [
      { contender: 'ours', median: 2, ratioToOurs: 1, samples: 2, parts: { layers: 0.25, attention: 0.5 } },
      { contender: 'other', median: 5, ratioToOurs: 2.5, samples: 2 },
    ],
  })
  expect(row.lossDifference).toBeCloseTo(1e-5, 8)
  const samples = log.filter((line) => line.endsWith('sample'))
  expect(samples).toEqual(['ours sample', 'other sample', 'ours sample', 'other sample'])
})

test.each([
  ['whose losses differ', fake('other', [1, 0.501], 1), /^its losses differ by 0\.0020 /],
  ['without a loss', fake('other', [1], 1), /^its losses differ by Infinity /],
  ['without a time', fake('other', [1, 0.5], 0), /^it returned 0 seconds$/],
])('a contender %s is not measured', async (_, other, reason) => {
  const missing: Missing[] = []
  const row = await measureStep([fake('ours', [1, 0.5], 2), other], problem, limits, missing)
  expect(row.results.map(({ contender }) => contender)).toEqual(['ours'])
  expect(missing.map(({ name }) => name)).toEqual(['other, blocks, lora'])
  expect(missing[0].reason).toMatch(reason)
})

test('an error of this package ends the run, and so does an interrupt', async () => {
  await expect(measureStep([fake('ours', [1], 0)], problem, limits, [])).rejects.toThrow('0 seconds')
  const signal = AbortSignal.abort()
  await expect(measureStep([fake('ours', [1], 1)], problem, { ...limits, signal }, [])).rejects.toThrow('aborted')
})

const row: StepRow = {
  encoder: 'blocks',
  adapter: 'lily',
  losses: [0.75, 0.5],
  lossDifference: 3e-6,
  results: [
    { contender: 'lily-kernels', median: 0.1, spread: 0.02, samples: 5, ratioToOurs: 1, parts: { layers: 0.06 } },
    { contender: 'Slow & <old>', median: 0.9, spread: 0.02, samples: 5, ratioToOurs: 9, parts: { layers: 0.8 } },
  ],
}
const report: StepReport = {
  version: '1.2.3',
  measuredAt: '2000-01-02T03:04:05Z',
  command: 'npm run bench:step',
  complete: false,
  machine: { device: 'Some CPU', instructionSet: 'avx2', threads: 2, platform: 'linux-x64' },
  versions: { PyTorch: '9.9' },
  environment: {},
  missing: [{ name: 'Fast', reason: 'not here', install: 'get fast' }],
  rows: [row],
}

test('the Markdown has a line for each contender, the machine and what is missing', () => {
  const text = stepMarkdown(report)
  expect(text).toContain('Some CPU, avx2, 2 threads')
  expect(text).toContain('`npm run bench:step`, lily-kernels 1.2.3, 2000-01-02, linux-x64. PyTorch 9.9.')
  expect(text).toContain('| lily-kernels | 100.0 | 1.00 | 2 % | 60.0 | - | - | - | - |')
  expect(text).toContain('| Slow & <old> | 900.0 | 9.00 | 2 % | 800.0 | - | - | - | - |')
  expect(text).toContain('0.7500 to 0.5000, differ by 3e-6 at most')
  expect(text).toContain('- Fast: not here; to install it: get fast')
  expect(text).toContain('Interrupted')
})

test('the page has stacked bars, and those that are far longer in a chart of their own', () => {
  const html = stepPage(report)
  const { document } = parseHTML(html) as unknown as {
    document: { querySelectorAll(selector: string): Iterable<{ readonly textContent: string }> }
  }
  const all = (selector: string) => Array.from(document.querySelectorAll(selector), ({ textContent }) => textContent)
  expect(all('figure svg')).toHaveLength(2)
  const bars = all('figure rect title')
  expect(bars).toEqual(['linear layers and adapters: 60.0 ms', 'linear layers and adapters: 800.0 ms'])
  expect(all('tbody th')).toEqual(['lily-kernels', 'Slow & <old>'])
  expect(JSON.parse(all('#report')[0])).toEqual(report)
  expect(all('link, img, iframe, script[src]')).toEqual([])
  expect(html).not.toContain('NaN')
})

const runWith = (env: NodeJS.ProcessEnv, ...options: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', 'bench/step/main.ts', ...options], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', ...env },
  })
const run = (...options: string[]) => runWith({}, ...options)

test('the program writes text, JSON and a page', () => {
  const [json, html] = [join(folder, 'step.json'), join(folder, 'step.html')]
  const options = '--quick --seconds 0.01 --encoder finetune --without tfjs --without pytorch --threads 1'.split(' ')
  const { status, stdout, stderr } = run(...options, '--json', json, '--html', html)
  expect(status, stderr).toBe(0)
  const written = JSON.parse(readFileSync(json, 'utf8')) as StepReport
  expect(written).toMatchObject({ complete: true, machine: { threads: 1 } })
  expect(written.rows.map(({ encoder, adapter }) => [encoder, adapter])).toEqual(
    adapters.map((adapter) => ['finetune', adapter]),
  )
  expect(written.missing.map(({ name }) => name)).toEqual(['TensorFlow.js', 'PyTorch'])
  expect(stdout.trim()).toBe(stepMarkdown(written).trim())
  expect(readFileSync(html, 'utf8')).toBe(stepPage(written))
}, 120_000)

test('the program refuses other names, and folders that do not exist', () => {
  expect(run('--without', 'numpy').stderr).toContain('--without: expected one of pytorch, tfjs; got numpy')
  expect(run('--json', join(folder, 'none', 'step.json')).stderr).toContain('step.json does not exist')
  const reason = 'the cpu backend is not available: LILY_CPU_ISA=sse9'
  expect(runWith({ LILY_CPU_ISA: 'sse9' }).stderr).toContain(reason)
})
