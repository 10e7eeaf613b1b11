/** `lily-kernels bench` and `doctor` as child processes. The tests check that times exist, not their values. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { afterAll, describe, expect, test, vi } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { hasLayer, methods, passes } from '../../bench/methods/methods.js'
import { routings } from '../../bench/workload/cases.js'
import { dtypeNames } from '../../bench/workload/dtypes.js'
import { textOf } from '../../cli/doctor/command.js'
import { diagnose } from '../../cli/doctor/diagnose.js'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
import { selfTest } from '../../cli/doctor/self-test.js'
import { runCli } from '../support/cli.js'

/** Graphs require a GPU, and the frozen layer the option --layer. */
const cpuMethods = methods.filter((method) => !method.endsWith('-graph') && !hasLayer(method))

/** The subset of the DOM that the tests use. */
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
    expect(report).toMatchObject({ complete: true, caches: 'warm', machine: { backend: 'cpu', node: process.version } })
    const { roofs, results } = report
    expect(roofs!.flops).toBeGreaterThan(1e8)
    // A loop that the compiler removed would give far more.
    expect(roofs!.flops).toBeLessThan(1e15)
    expect(roofs!.bfloat16Flops).toBeGreaterThan(1e8)
    for (const { read, update } of roofs!.memory) expect(Math.min(read, update)).toBeGreaterThan(1e7)

    expect(results).toHaveLength(3 * dtypeNames.length * routings.length * passes.length * cpuMethods.length)
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
    const { code, stdout, stderr } = await runCli([
      ...tiny,
      '--layer',
      '--caches',
      'cold',
      '--json',
      path('layer.json'),
    ])
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

  test.each([
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('after %s, the results so far are written', async (signal, expected) => {
    let sent = false
    // Interrupt the second case, so that only the results of the first exist.
    const interrupt = (stderr: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => {
      if (sent || !stderr.includes('measuring cpu: 16, 32, 4, 2 float32 sequence')) return
      sent = child.kill(signal)
    }
    const files = ['--json', path('part.json'), '--html', path('part.html')]
    const args = [...tiny, '--routing', 'all', '--seconds', '20', ...files]
    const { code, stdout, stderr } = await runCli(args, {}, interrupt)
    expect(sent).toBe(true)
    expect(code).toBe(expected)
    expect(stderr).toContain('interrupted: 1 of 5 cases were measured; their results are written')
    expect(stdout).toContain('float32, batch routing')
    expect(stdout).toContain('interrupted')
    const [report] = JSON.parse(read('part.json')) as Report[]
    expect(report.complete).toBe(false)
    expect(new Set(report.results.map(({ routing }) => routing))).toEqual(new Set(['batch']))
    expect(report.results).toHaveLength(passes.length * cpuMethods.length)
    expect(read('part.html')).toContain('This run was interrupted')
  })

  test('the command in a report is one that a shell runs', async () => {
    const html = path("the page's charts.html")
    const { code, stdout, stderr } = await runCli([...tiny, '--html', html, '--json', '-'])
    expect(code, stderr).toBe(0)
    const [{ command }] = JSON.parse(stdout) as Report[]
    const printed = execFileSync('sh', ['-c', command.replace('npx', `printf '%s\\n'`)], { encoding: 'utf8' })
    expect(printed.split('\n')).toEqual(['lily-kernels', ...tiny, '--html', html, '--json', '-', ''])
  })

  test('an interrupt before the first result also writes files', async () => {
    const interrupt = (_: string, child: { kill: (signal: NodeJS.Signals) => boolean }) => child.kill('SIGINT')
    const { code } = await runCli([...tiny, '--json', path('none.json'), '--html', path('none.html')], {}, interrupt)
    expect(code).toBe(130)
    expect((JSON.parse(read('none.json')) as Report[])[0].results).toEqual([])
    expect(read('none.html')).toContain('This run was interrupted')
  })

  test.each([
    [['--shape', '1,2,3'], 'expected M,d,r,E'],
    [['--dtype', 'float8'], 'expected one of float32, bfloat16, float16, mixed, all; got float8'],
    [['--routing', 'best'], 'expected one of batch, sequence, token, uniform, fixed, all; got best'],
    [['--threads', '0'], 'expected an integer from 1 to 256'],
    [['--seconds', 'many'], 'expected a positive number of seconds'],
    [['--caches', 'hot'], 'Allowed choices are warm, cold'],
    [['--backend', 'tpu'], 'expected one of cpu, cuda, webgpu, all; got tpu'],
    [['--backend', 'cuda'], 'the cuda backend is not available: LILY_CUDA_LIBRARY names none, which does not exist'],
    [['--backend', 'webgpu', '--layer'], '--layer is for the cpu backend, which is not measured; leave it out or add'],
    [['--backend', 'cuda', '--threads', '1'], '--threads is for the cpu backend, which is not measured; leave it out'],
    [['--html', '/no/such/folder/report.html'], 'report.html cannot be written: its folder does not exist; create it'],
    [['--json', folder], 'cannot be written: it is a folder'],
    [['--json', '/dev/null/report.json'], '--json: /dev/null/report.json cannot be written: ENOTDIR'],
    [['--json', path('same'), '--html', path('same')], '--html: ', 'cannot be written: --json names the same file'],
  ])('%j is rejected before the measurement', async (args, ...messages) => {
    const { code, stderr } = await runCli(['bench', ...args])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^error: /)
    for (const message of messages) expect(stderr).toContain(message)
    expect(stderr).not.toContain('measuring')
  })
})

test.each([
  ['LILY_NUM_THREADS', '0'],
  ['LILY_CPU_ISA', 'no-such-set'],
])('bench with %s=%s, and so without a backend, says why', async (name, value) => {
  const { code, stdout, stderr } = await runCli([...tiny, '--layer'], { [name]: value })
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(new RegExp(`^error: no backend is available: cpu: .*${name}.*; cuda: `))
})

describe('doctor', () => {
  const doctor = async (env: Record<string, string> = {}): Promise<Diagnosis & { code: number | null }> => {
    const { code, stdout, stderr } = await runCli(['doctor', '--json'], env)
    expect(stderr).toBe('')
    return { code, ...(JSON.parse(stdout) as Diagnosis) }
  }

  test('reports the machine and tests its backends', async () => {
    const { code, ok, node, platform, libc, addon, processor, backends } = await doctor({ LILY_NUM_THREADS: '' })
    expect({ code, ok, node, addon }).toEqual({ code: 0, ok: true, node: process.version, addon: { loads: true } })
    expect(platform).toBe(`${process.platform}-${process.arch}`)
    if (process.platform === 'linux') expect(libc).toMatch(/^(glibc|musl) /)
    expect(processor!.instructionSets[0]).toBe('portable')
    expect(processor!.instructionSets).toContain(processor!.simd)
    const { threads, affinity, quota, physicalCores } = processor!
    expect(physicalCores).not.toBeNull()
    expect(threads).toBe(Math.min(affinity, quota ?? Infinity, physicalCores!, 256))
    const limits = { 'physical cores': physicalCores, affinity, 'cgroup quota': quota }
    const because = Object.entries(limits).flatMap(([name, limit]) => (limit === threads ? [name] : []))
    expect(processor!.because).toBe(because.join(' and ') || 'the limit of the thread pool')
    expect(processor!.amxRefusal).not.toBe('')
    expect(backends[0]).toMatchObject({ name: 'cpu', available: true, selfTest: { passed: true } })
    expect(backends[1]).toMatchObject({ name: 'cuda', available: false })
    expect(backends[1]).not.toHaveProperty('selfTest')
  })

  test('reports LILY_NUM_THREADS as the limit of threads', async () => {
    const { processor, environment } = await doctor({ LILY_NUM_THREADS: '3' })
    expect(processor).toMatchObject({ threads: 3, because: 'LILY_NUM_THREADS' })
    expect(environment).toMatchObject({ LILY_NUM_THREADS: '3' })
  })

  test('reports why the CUDA library does not load and how to fix it', async () => {
    writeFileSync(path('text.so'), 'no library')
    const reason = async (library: string) => (await doctor({ LILY_CUDA_LIBRARY: library })).backends[1].reason
    expect(await reason(path('nothing.so'))).toMatch(/names .*nothing\.so, which does not exist; correct or unset it/)
    expect(await reason(path('text.so'))).toMatch(/does not load: .*text\.so.*; correct or unset LILY_CUDA_LIBRARY/)
  })

  test('exits with code 1 if the cpu backend is not available', async () => {
    const variables = { LILY_CPU_ISA: 'sse9', LILY_CPU_BLOCKS: '1', LILY_CUBLASLT: '0' }
    const { code, stdout } = await runCli(['doctor'], variables)
    expect(code).toBe(1)
    expect(stdout).toMatch(/^cpu +not available: LILY_CPU_ISA=sse9 is not one of .*portable, .*, wasm, wasm-relaxed;/m)
    for (const [name, value] of Object.entries(variables)) expect(stdout).toContain(`environment   ${name}=${value}\n`)
    expect(stdout).not.toMatch(/^threads/m)
  })

  test('tests the first device that there is', async () => {
    expect(await selfTest({ name: 'cuda', devices: [{ id: 7, name: 'a GPU' }] })).toEqual({
      passed: false,
      reason: expect.stringContaining('cuda:7 is not available') as string,
    })
  })

  test('says that the package does not work if one of several self-tests fails', async () => {
    const results = [{ passed: true }, { passed: false, reason: 'y in float32 is 1' }]
    const device = { id: 0, name: 'a device' }
    vi.doMock('../../cli/doctor/self-test.js', () => ({ selfTest: () => Promise.resolve(results.shift()) }))
    vi.doMock('../../lib/memory/backends.js', () => ({
      backends: () => ['cpu', 'cuda'].map((name) => ({ name, available: true, devices: [device] })),
    }))
    try {
      const { ok, backends } = await diagnose('1.2.3')
      expect(ok).toBe(false)
      expect(backends.map(({ selfTest }) => selfTest?.passed)).toEqual([true, false])
    } finally {
      vi.doUnmock('../../cli/doctor/self-test.js')
      vi.doUnmock('../../lib/memory/backends.js')
    }
  })

  test('prints text by default', async () => {
    const { code, stdout } = await runCli(['doctor'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^cpu +self-test passed$/m)
    expect(stdout).toMatch(/^cuda +not available: LILY_CUDA_LIBRARY names none, which does not exist/m)
  })

  const machine = { version: '1.2.3', node: 'v20.1.0', platform: 'linux-x64', os: 'Linux 6.1' }
  const processor = {
    instructionSets: ['portable', 'avx2'],
    simd: 'avx2',
    threads: 3,
    because: 'affinity',
    affinity: 3,
    quota: null,
    physicalCores: 4,
    amxRefusal: null,
  }
  const gpu = { id: 0, name: 'a GPU', computeCapability: '9.0', memory: 80 * 2 ** 30 }

  test('the text names what is wrong with a device, and asks for a report once', () => {
    const reason = 'cuda:1 does not respond'
    const text = textOf({
      ok: false,
      ...machine,
      libc: 'glibc 2.41',
      addon: { loads: true },
      environment: { LILY_NUM_THREADS: '' },
      processor: { ...processor, quota: 2.5, physicalCores: null, amxRefusal: 'Operation not permitted' },
      backends: [
        {
          name: 'cpu',
          available: true,
          devices: [{ id: 0, name: 'a processor', simd: 'avx2' }],
          selfTest: { passed: false, reason: 'y in float32 is 1,\nexpected 2' },
        },
        {
          name: 'cuda',
          available: true,
          reason,
          devices: [{ ...gpu, without: 'wgmma' }],
          selfTest: { passed: false, reason: 'please report it' },
        },
      ],
    })
    expect(text.split('\n').map((line) => line.replace(/  +/, ' | '))).toEqual([
      'lily-kernels | 1.2.3',
      'Node | v20.1.0',
      'platform | linux-x64, Linux 6.1, glibc 2.41',
      'addon | loads',
      'environment | LILY_NUM_THREADS=',
      'instructions | avx2 in use; supported: portable, avx2',
      'amx | refused: Operation not permitted; bfloat16 runs on avx2, tf32 in float32',
      'threads | 3, determined by affinity (CPU affinity 3, physical cores in it unknown, cgroup quota 2.5)',
      'cpu:0 | a processor',
      'cpu | SELF-TEST FAILED: y in float32 is 1, expected 2; please report this with the output of lily-kernels doctor --json',
      'cuda:0 | a GPU, compute capability 9.0, 80.0 GiB, WITHOUT wgmma, which gave a wrong result; please report this with the ' +
        'output of lily-kernels doctor --json',
      `cuda | ${reason}`,
      'cuda | SELF-TEST FAILED: please report it',
    ])
  })

  test('the text says what runs in place of the addon, and what does not run', () => {
    const reason = 'no native addon for sunos-x64'
    const on = (changes: Partial<Diagnosis>) =>
      textOf({
        ok: false,
        ...machine,
        libc: null,
        environment: {},
        processor,
        backends: [],
        addon: { loads: false, reason },
        ...changes,
      })
    expect(on({ processor: null })).toMatch(
      /^platform +linux-x64, Linux 6\.1\naddon +FAILS: no native addon for sunos-x64$/m,
    )
    const wasm = { name: 'cpu', available: true, reason, devices: [], selfTest: { passed: true } } as const
    expect(
      on({ backends: [wasm] })
        .split('\n')
        .slice(3)
        .map((line) => line.replace(/  +/, ' | ')),
    ).toEqual([
      `addon | not in use: ${reason}`,
      'instructions | avx2 in use; supported: portable, avx2',
      'threads | 3, determined by affinity (CPU affinity 3, physical cores in it 4, cgroup quota none)',
      'cpu | self-test passed',
    ])
    const none = { name: 'cpu', available: false, devices: [] } as const
    const lines = on({
      processor: { ...processor, simd: null, threads: null },
      backends: [none],
      addon: { loads: true },
    })
    expect(lines).toMatch(
      /^instructions +none in use; supported: portable, avx2\ncpu +not available: no reason given$/m,
    )
  })
})

test.each([
  [['--help'], 'Usage: lily-kernels [options] [command]', '  inspect <folder> [options]  '],
  [['bench', '--help'], 'Usage: lily-kernels bench [options]'],
  [['doctor', '--help'], 'Usage: lily-kernels doctor [options]'],
  // An option --json in front of the folder takes it for its file.
  [['inspect', '--help'], 'Usage: lily-kernels inspect <folder> [options]'],
])('%j prints the usage', async (args, ...texts) => {
  const { code, stdout } = await runCli(args)
  expect(code).toBe(0)
  for (const text of texts) expect(stdout).toContain(text)
})
