/** `lily-kernels bench` and `doctor` as people call them. No time is asserted, only that there is one. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { afterAll, describe, expect, test } from 'vitest'
import { routings } from '../bench/cases.js'
import { dtypeNames } from '../bench/dtypes.js'
import { methods, passes, type Report } from '../bench/report.js'
import type { Diagnosis } from '../cli/doctor/findings.js'
import { runCli } from './support/cli.js'

/** Graphs are a device's. */
const onHost = methods.filter((method) => !method.endsWith('-graph'))

/** What is asked of a page. */
interface Page {
  readonly textContent: string
  querySelector(selector: string): Page
  querySelectorAll(selector: string): ArrayLike<Page> & Iterable<Page>
}

const folder = mkdtempSync(join(tmpdir(), 'lily-cli-'))
const path = (name: string): string => join(folder, name)
const read = (name: string): string => readFileSync(path(name), 'utf8')
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

const tiny = ['bench', '--quick', '--seconds', '0.1', '--shape', '16,32,4,2']

describe('bench', () => {
  test('every type and routing: a table, JSON and a page', async () => {
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
    expect(report).toMatchObject({ complete: true, caches: 'warm', machine: { backend: 'cpu', node: process.version } })
    const { roofs, results } = report
    expect(roofs!.flops).toBeGreaterThan(1e8)
    // A loop that the compiler has seen through has no end of them.
    expect(roofs!.flops).toBeLessThan(1e15)
    expect(roofs!.bfloat16Flops).toBeGreaterThan(1e8)
    for (const { read, update } of roofs!.memory) expect(Math.min(read, update)).toBeGreaterThan(1e7)

    expect(results).toHaveLength(3 * dtypeNames.length * routings.length * passes.length * onHost.length)
    for (const result of results) {
      const { median, spread, samples, floor, ratioToLora, ratioToFused, method, flops, bytes } = result
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
    const titles = [...document.querySelectorAll('figure.chart h3')].map(({ textContent }) => textContent)
    expect(titles).toEqual([
      'Time of Lily over LoRA',
      'Roofline',
      'Memory',
      'Cost over r: forward',
      'Cost over r: forward + backward',
      'Data types',
      'Routing modes',
    ])
    const charts = [...document.querySelectorAll('figure.chart svg.plot')]
    expect(charts).toHaveLength(titles.length)
    for (const chart of charts) expect(chart.querySelectorAll('circle, path, rect').length).toBeGreaterThan(3)
    expect(document.querySelectorAll('tbody tr').length).toBeGreaterThan(3 * 4 * 5 * 2)
    expect(JSON.parse(document.querySelector('#report').textContent)).toEqual(reports)
    // Nothing of it comes from elsewhere, and no number in it is none.
    const foreign = /<(link|img|iframe)|<script(?![^>]*application\/json)| src=|url\((?!#)|@import/
    expect(foreign.exec(html)?.[0]).toBeUndefined()
    expect(/NaN|Infinity|undefined/.exec(html)?.[0]).toBeUndefined()
  })

  test('JSON alone on standard output', async () => {
    const args = [
      '--quick',
      '--seconds',
      '0.1',
      '--shape',
      '256,512,8,2',
      '--caches',
      'cold',
      '--threads',
      '1',
      '--layers',
      '8',
    ]
    const { code, stdout } = await runCli(['bench', ...args, '--json'])
    expect(code).toBe(0)
    const [{ caches, machine, model, command }] = JSON.parse(stdout) as Report[]
    expect({ caches, model }).toEqual({ caches: 'cold', model: { layers: 8, strideA: 4 } })
    expect(machine.threads).toBe(1)
    expect(command).toBe(`npx lily-kernels bench ${args.join(' ')} --json`)
  })

  test.each(['SIGINT', 'SIGTERM'] as const)('%s leaves what was measured', async (signal) => {
    let sent = false
    // The second case is under way: the first is done, and all others will not be.
    const interrupt = (stderr: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => {
      if (sent || !stderr.includes('measuring cpu: 16, 32, 4, 2 float32 sequence')) return
      sent = child.kill(signal)
    }
    const files = ['--json', path('part.json'), '--html', path('part.html')]
    const args = [...tiny, '--routing', 'all', '--seconds', '20', ...files]
    const { code, stdout } = await runCli(args, {}, interrupt)
    expect(sent).toBe(true)
    expect(code).toBe(130)
    expect(stdout).toContain('float32, batch routing')
    expect(stdout).toContain('interrupted')
    const [report] = JSON.parse(read('part.json')) as Report[]
    expect(report.complete).toBe(false)
    expect(new Set(report.results.map(({ routing }) => routing))).toEqual(new Set(['batch']))
    expect(report.results).toHaveLength(passes.length * onHost.length)
    expect(read('part.html')).toContain('This run was interrupted')
  })

  test('an interrupt before the first result leaves files, too', async () => {
    const interrupt = (_: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => child.kill('SIGINT')
    const { code } = await runCli([...tiny, '--json', path('none.json'), '--html', path('none.html')], {}, interrupt)
    expect(code).toBe(130)
    expect((JSON.parse(read('none.json')) as Report[])[0].results).toEqual([])
    expect(read('none.html')).toContain('This run was interrupted')
  })

  test.each([
    [['--shape', '1,2,3'], 'expected M,d,r,E'],
    [['--dtype', 'float8'], 'float8 is none of float32, bfloat16, float16, mixed, all'],
    [['--routing', 'best'], 'best is none of batch, sequence, token, uniform, fixed, all'],
    [['--threads', '0'], 'expected a whole number from 1 to 256'],
    [['--seconds', 'many'], 'expected seconds'],
    [['--caches', 'hot'], 'Allowed choices are warm, cold'],
    [['--backend', 'tpu'], 'tpu is none of cpu, cuda, all'],
    [['--backend', 'cuda'], 'the cuda backend is not available: LILY_CUDA_LIBRARY names none, which does not exist'],
    [['--html', '/no/such/folder/report.html'], 'the folder of --html does not exist'],
  ])('%j is refused before anything is measured', async (args, message) => {
    const { code, stderr } = await runCli(['bench', ...args])
    expect(code).toBe(1)
    expect(stderr).toContain(message)
    expect(stderr).not.toContain('measuring')
  })
})

describe('doctor', () => {
  const doctor = async (env: Record<string, string> = {}): Promise<Diagnosis & { code: number | null }> => {
    const { code, stdout, stderr } = await runCli(['doctor', '--json'], env)
    expect(stderr).toBe('')
    return { code, ...(JSON.parse(stdout) as Diagnosis) }
  }

  test('says what was found, and tests it', async () => {
    const { code, ok, node, platform, libc, addon, processor, backends } = await doctor({ LILY_NUM_THREADS: '' })
    expect({ code, ok, node, addon }).toEqual({ code: 0, ok: true, node: process.version, addon: { loads: true } })
    expect(platform).toBe(`${process.platform}-${process.arch}`)
    if (process.platform === 'linux') expect(libc).toMatch(/^(glibc|musl) /)
    expect(processor!.instructionSets[0]).toBe('portable')
    expect(processor!.instructionSets).toContain(processor!.simd)
    const { threads, affinity, quota, physicalCores } = processor!
    expect(threads).toBe(Math.min(affinity, quota ?? Infinity, physicalCores, 256))
    expect(processor!.because).toMatch(/physical cores|affinity|cgroup quota|the most that the pool takes/)
    expect(backends[0]).toMatchObject({ name: 'cpu', available: true, selfTest: { passed: true } })
    expect(backends[1]).toMatchObject({ name: 'cuda', available: false })
    expect(backends[1]).not.toHaveProperty('selfTest')
  })

  test('LILY_NUM_THREADS decides', async () => {
    const { processor, environment } = await doctor({ LILY_NUM_THREADS: '3' })
    expect(processor).toMatchObject({ threads: 3, because: 'LILY_NUM_THREADS' })
    expect(environment).toMatchObject({ LILY_NUM_THREADS: '3' })
  })

  test('why there is no CUDA, and what to do', async () => {
    writeFileSync(path('text.so'), 'no library')
    const reason = async (library: string) => (await doctor({ LILY_CUDA_LIBRARY: library })).backends[1].reason
    expect(await reason(path('nothing.so'))).toMatch(/names .*nothing\.so, which does not exist; correct or unset it/)
    expect(await reason(path('text.so'))).toMatch(/does not load: .*text\.so.*; correct or unset LILY_CUDA_LIBRARY/)
  })

  test('ends with 1 where the cpu backend does not work', async () => {
    const { code, ok, backends } = await doctor({ LILY_CPU_ISA: 'sse9' })
    expect({ code, ok }).toEqual({ code: 1, ok: false })
    expect(backends[0].reason).toContain('LILY_CPU_ISA=sse9')
  })

  test('as text', async () => {
    const { code, stdout } = await runCli(['doctor'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^cpu +self-test passed$/m)
    expect(stdout).toMatch(/^cuda +not available: LILY_CUDA_LIBRARY names none, which does not exist/m)
  })
})

test('help needs no addon and no machine', async () => {
  for (const args of [['--help'], ['bench', '--help'], ['doctor', '--help']]) {
    const { code, stdout } = await runCli(args)
    expect(code).toBe(0)
    expect(stdout).toContain('Usage: lily-kernels')
  }
})
