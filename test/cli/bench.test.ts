/** `lily-kernels bench` as a child process. The tests check that times exist, not their values. */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { hasLayer, methods, passes } from '../../bench/methods/methods.js'
import { routings } from '../../bench/workload/cases.js'
import { dtypeNames } from '../../bench/workload/dtypes.js'
import { benchCommand } from '../../cli/bench/command.js'
import { verdictOf } from '../../cli/bench/verdict.js'
import { runCli } from '../support/cli.js'
import { temporaryFolder } from '../support/temporary.js'

/** Graphs require a GPU, and the frozen layer the option --layer. */
const cpuMethods = methods.filter((method) => !method.endsWith('-graph') && !hasLayer(method))

/** The subset of the DOM that the tests use. */
interface Page {
  readonly textContent: string
  querySelector(selector: string): Page
  querySelectorAll(selector: string): ArrayLike<Page> & Iterable<Page>
}

const folder = temporaryFolder()
const path = (name: string): string => join(folder, name)
const read = (name: string): string => readFileSync(path(name), 'utf8')

const quick = ['bench', '--quick', '--seconds', '0.1']
const tiny = [...quick, '--shape', '16,32,4,2']
const isWindows = process.platform === 'win32'
const noCuda = isWindows
  ? 'the CUDA backend of lily-kernels runs on Linux only'
  : 'LILY_CUDA_LIBRARY names none, which does not exist'
const NO_SIGNALS = 'Windows ends a process that another one interrupts'

/** A case that takes seconds, within which a signal comes. */
const long = ['--shape', '512,4096,16,4']

test('writes a table, JSON and a page for every data type and routing', async () => {
  const all = ['--dtype', 'all', '--routing', 'all', '--shape', '16,32,2,2', '--shape', '16,32,8,2']
  const files = ['--json', path('all.json'), '--html', path('all.html')]
  const { code, stdout, stderr } = await runCli([...tiny, ...all, ...files])
  expect(code, stderr).toBe(0)
  for (const dtype of dtypeNames) {
    for (const routing of routings) expect(stdout).toContain(`${dtype}, ${routing} routing`)
  }

  const reports = JSON.parse(read('all.json')) as Report[]
  expect(reports).toHaveLength(1)
  const [report] = reports
  expect(report.verdict).toBe(verdictOf(report))
  expect(stdout.slice(0, stdout.indexOf('\n\n')).replaceAll('\n', ' ')).toBe(report.verdict)
  expect(report).toMatchObject({ complete: true, caches: 'warm', machine: { backend: 'cpu', node: process.version } })
  const { roofs, results } = report
  expect(roofs!.flops).toBeGreaterThan(1e8)
  // A loop that the compiler removed would give far more.
  expect(roofs!.flops).toBeLessThan(1e15)
  expect(roofs!.bfloat16Flops).toBeGreaterThan(1e8)
  for (const { read, update } of roofs!.memory) expect(Math.min(read, update)).toBeGreaterThan(1e7)

  expect(results).toHaveLength(3 * dtypeNames.length * routings.length * passes.length * cpuMethods.length)
  for (const result of results) {
    const { median, spread, samples, floor, ratioToLora, ratioToFused, method, flops, bytes, lilyRatio } = result
    if (method === 'lily') expect(lilyRatio).toEqual({ median: 1, spread: 0 })
    expect(lilyRatio!.median).toBeGreaterThan(0)
    expect(lilyRatio!.spread).toBeGreaterThanOrEqual(0)
    for (const value of [median, floor, ratioToLora, flops, bytes]) expect(value, method).toBeGreaterThan(0)
    expect(median).toBeLessThan(60)
    expect(spread).toBeGreaterThanOrEqual(0)
    expect(samples).toBeGreaterThanOrEqual(3)
    if (method === 'lora') expect(ratioToLora).toBe(1)
    if (method.endsWith('-composed')) expect(ratioToFused).toBeGreaterThan(0)
    else expect(ratioToFused).toBeNull()
  }

  const html = read('all.html')
  const { document } = parseHTML(html) as unknown as { document: Page }
  expect(document.querySelector('.verdict').textContent).toBe(report.verdict)
  const titles = [...document.querySelectorAll('figure.chart h3')].map(({ textContent }) => textContent)
  expect(titles).toEqual([
    'Time of Lily relative to LoRA',
    'Roofline',
    'Memory bandwidth',
    'Time by r: forward',
    'Time by r: forward + backward',
    'Time by data type',
    'Time by routing',
  ])
  const charts = [...document.querySelectorAll('figure.chart svg.plot')]
  expect(charts).toHaveLength(titles.length)
  for (const chart of charts) expect(chart.querySelectorAll('circle, path, rect').length).toBeGreaterThan(3)
  expect(document.querySelectorAll('tbody tr').length).toBeGreaterThan(3 * 4 * 5 * 2)
  expect(JSON.parse(document.querySelector('#report').textContent)).toEqual(reports)
  // The page is self-contained, and every number is finite.
  const external = /<(link|img|iframe)|<script(?![^>]*application\/json)| src=|url\((?!#)|@import/
  expect(external.exec(html)?.[0]).toBeUndefined()
  expect(/NaN|Infinity|undefined/.exec(html)?.[0]).toBeUndefined()
})

test('--layer adds the frozen layer, alone and with each adapter', async () => {
  const { code, stdout, stderr } = await runCli([...tiny, '--layer', '--caches', 'cold', '--json', path('layer.json')])
  expect(code, stderr).toBe(0)
  for (const title of ['layer ms', '+ Lily', '+ LoRA', 'layer: the frozen linear layer alone']) {
    expect(stdout).toContain(title)
  }
  const [{ results }] = JSON.parse(read('layer.json')) as Report[]
  const layers = results.filter(({ method }) => hasLayer(method))
  expect(layers).toHaveLength(3 * passes.length)
  for (const { method, pass, flops, floor, ratioToLayer, median } of layers) {
    const product = 2 * 16 * 32 * 32 * (pass === 'forward' ? 1 : 2)
    if (method === 'layer') expect(flops).toBe(product)
    else expect(flops).toBeGreaterThan(product)
    expect(floor).toBeGreaterThan(0)
    expect(median).toBeGreaterThan(0)
    if (method === 'layer') expect(ratioToLayer).toBeNull()
    else expect(ratioToLayer).toBeGreaterThan(0)
  }
  expect(results.filter(({ method }) => !hasLayer(method)).every(({ ratioToLayer }) => ratioToLayer === null)).toBe(
    true,
  )
})

test('--json without a file writes only JSON to stdout', async () => {
  const args = [...tiny, '--caches', 'cold', '--threads', '1', '--layers', '8', '--json']
  const pages = () => readdirSync('.').filter((name) => name.endsWith('.html'))
  const before = pages()
  const { code, stdout } = await runCli(args)
  expect(code).toBe(0)
  expect(pages(), 'no page unless --html asks for one').toEqual(before)
  const [{ caches, machine, model, command }] = JSON.parse(stdout) as Report[]
  expect({ caches, model }).toEqual({ caches: 'cold', model: { layers: 8, strideA: 4 } })
  expect(machine.threads).toBe(1)
  expect(command).toBe(`npx lily-kernels ${args.join(' ')}`)
})

test.for([
  ['SIGHUP', 129],
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('after %s, the results so far are written', async ([signal, expected], { skip }) => {
  skip(isWindows, NO_SIGNALS)
  let sent = false
  // Interrupt the second case, so that only the results of the first exist.
  const interrupt = (stderr: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => {
    if (sent || !stderr.includes('measuring cpu: 512, 4096, 16, 4')) return
    sent = child.kill(signal)
  }
  const files = ['--json', path('part.json'), '--html', path('part.html')]
  const { code, stdout, stderr } = await runCli([...tiny, ...long, ...files], {}, interrupt)
  expect(sent).toBe(true)
  expect(code).toBe(expected)
  expect(stderr).toContain('interrupted: 1 of 2 cases were measured; their results are written')
  expect(stdout).toContain('float32, batch routing')
  expect(stdout).toContain('interrupted')
  const [report] = JSON.parse(read('part.json')) as Report[]
  expect(report.complete).toBe(false)
  expect(new Set(report.results.map(({ shape }) => shape.rank))).toEqual(new Set([4]))
  expect(report.results).toHaveLength(passes.length * cpuMethods.length)
  expect(read('part.html')).toContain('This run was interrupted')
})

test('the command in a report is one that a shell runs', async ({ skip }) => {
  skip(isWindows, 'a shell of Windows')
  const html = path("the page's charts.html")
  const { code, stdout, stderr } = await runCli([...tiny, '--html', html, '--json', '-'])
  expect(code, stderr).toBe(0)
  const [{ command }] = JSON.parse(stdout) as Report[]
  const printed = execFileSync('sh', ['-c', command.replace('npx', `printf '%s\\n'`)], { encoding: 'utf8' })
  expect(printed.split('\n')).toEqual(['lily-kernels', ...tiny, '--html', html, '--json', '-', ''])
})

test('an interrupt before the first result also writes files', async ({ skip }) => {
  skip(isWindows, NO_SIGNALS)
  const interrupt = (_: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => child.kill('SIGINT')
  const { code } = await runCli(
    [...quick, ...long, '--json', path('none.json'), '--html', path('none.html')],
    {},
    interrupt,
  )
  expect(code).toBe(130)
  expect((JSON.parse(read('none.json')) as Report[])[0].results).toEqual([])
  expect(read('none.html')).toContain('This run was interrupted')
})

test.each([
  [['--shape', '1,2,3'], 'expected M,d,r,E'],
  [['--dtype', 'float8'], 'expected one of float32, bfloat16, float16, mixed, all; got float8'],
  [['--routing', 'best'], 'expected one of batch, sequence, token, uniform, fixed, learned, all; got best'],
  [['--threads', '0'], 'expected an integer from 1 to 256'],
  [['--seconds', 'many'], 'expected a positive number of seconds'],
  [['--backend', 'tpu'], 'expected one of cpu, cuda, webgpu, all; got tpu'],
  [['--backend', 'cuda'], `the cuda backend is not available: ${noCuda}`],
  [['--backend', 'webgpu', '--layer'], '--layer is for the cpu backend, which is not measured; leave it out or add'],
  [['--backend', 'cuda', '--threads', '1'], '--threads is for the cpu backend, which is not measured; leave it out'],
])('%j is refused', async (args, message) => {
  const errors: string[] = []
  const command = benchCommand('1.2.3').exitOverride()
  command.configureOutput({ writeErr: (text) => errors.push(text) })
  await expect(command.parseAsync(args, { from: 'user' })).rejects.toMatchObject({ exitCode: 1 })
  expect(errors.join('')).toMatch(/^error: /)
  expect(errors.join('')).toContain(message)
})

test.each([
  [['--caches', 'hot'], 'Allowed choices are warm, cold'],
  [['--html', '/no/such/folder/report.html'], 'report.html cannot be written: its folder does not exist; create it'],
  [['--json', folder], 'cannot be written: it is a folder'],
  [['--json', '/dev/null/report.json'], '--json: /dev/null/report.json cannot be written: '],
  [['--json', path('same'), '--html', path('same')], '--html: ', 'cannot be written: --json names the same file'],
])('%j is rejected before the measurement', async (args, ...messages) => {
  const { code, stderr } = await runCli(['bench', ...args])
  expect(code).toBe(1)
  expect(stderr).toMatch(/^error: /)
  for (const message of messages) expect(stderr).toContain(message)
  expect(stderr).not.toContain('measuring')
})

test.each([
  ['LILY_NUM_THREADS', '0'],
  ['LILY_CPU_ISA', 'no-such-set'],
])('bench with %s=%s, and so without a backend, says why', async (name, value) => {
  const { code, stdout, stderr } = await runCli([...tiny, '--layer'], { [name]: value })
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(new RegExp(`^error: no backend is available: cpu: .*${name}.*; cuda: `))
})
