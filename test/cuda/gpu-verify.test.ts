/** scripts/gpu-verify.js without a GPU: its steps, its tables of predicted and measured times, and the fit of constants. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import type { Job } from '../../bench/counters/counted-call.js'
import type { Constants } from '../../bench/counters/fit.js'
import { gpus } from '../../bench/counters/gpus.js'
import { parseNcu, REPEATS, reportOn, textOfFit, textOfLaunches } from '../../bench/counters/launches.js'
import { constantsOf, planCall, planCalls, predictedSeconds } from '../../bench/counters/plan.js'
import type { Report, Result } from '../../bench/harness/report.js'
import { gpuTable, type PytorchReport } from '../../bench/peers/gpu-table.js'
import { temporaryFolder } from '../support/temporary.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('each step ends within ten minutes', () => {
  const listed = execFileSync(process.execPath, ['scripts/gpu-verify.js', '--list'], { cwd: root, encoding: 'utf8' })
  const steps = new Map<string, { names: string[]; seconds: number }>()
  for (const line of listed.trim().split('\n')) {
    const [step, name, seconds] = line.split(' ')
    const { names, seconds: sum } = steps.get(step) ?? { names: [], seconds: 0 }
    steps.set(step, { names: [...names, name], seconds: sum + Number(seconds) })
  }
  expect([...steps].map(([step, { names }]) => [step, ...names])).toEqual([
    ['check', 'self-test', 'kernels', 'instructions', 'suite', 'memcheck', 'synccheck', 'racecheck'],
    ['bench', 'times', 'pytorch', 'table'],
    ['launches', 'profile', 'predictions'],
  ])
  for (const { seconds } of steps.values()) expect(seconds).toBeLessThan(600)
})

const folder = temporaryFolder()
const nvidiaSmi = "echo 'NVIDIA H100 80GB HBM3, 9.0, 580.65.06'"

/** For any Python. */
const withoutTorch = { 'torch.py': 'raise ImportError' }

/**
 * Runs the script with shell programs of these names in the place of others, in a copy of the script: this may be the suite of
 * a run of the script itself.
 */
function verifyWith(programs: Record<string, string>, place: string, ...args: string[]) {
  const copy = join(folder, place)
  for (const name of ['scripts', 'package.json']) cpSync(join(root, name), join(copy, name), { recursive: true })
  const bin = join(copy, 'bin')
  mkdirSync(bin, { recursive: true })
  for (const [name, text] of Object.entries({ 'nvidia-smi': nvidiaSmi, ...programs })) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  }
  const out = join(copy, 'out')
  const run = spawnSync(process.execPath, ['scripts/gpu-verify.js', '--out', out, ...args], {
    cwd: copy,
    env: { ...process.env, LILY_SELF_TEST: '1', PYTHONPATH: bin, PATH: [bin, process.env.PATH].join(delimiter) },
    encoding: 'utf8',
  })
  return { ...run, out, summary: JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8')) as Summary }
}

interface Summary {
  parts: Record<string, { status: string; detail: string; gpu: string }>
}

test('a part that is stopped while it writes its results does not prevent the later ones', () => {
  // Of `python3 bench/peers/pytorch.py --json FILE ...`, and of `python3 -c 'import torch'`.
  const python3 = `[ "$1" = -c ] || printf '{"milliseconds": [' >"$3"`
  const { status, stdout, stderr } = verifyWith({ python3 }, 'stopped', '--only', 'pytorch,table')
  expect(stderr).not.toContain('gpu-verify')
  expect(stdout).toMatch(/^pytorch +failed .*was not written, or not to its end$/m)
  expect(stdout).toMatch(/^table +failed .*exited with 1$/m)
  expect(status).toBe(1)
})

test('parts that passed do not run again in a step, but by their name', () => {
  const programs = { 'compute-sanitizer': 'echo "ran with self-test $LILY_SELF_TEST: $*"' }
  // The time of compute-sanitizer is for its calls, not for the self-test of the process.
  const first = verifyWith(programs, 'resumed', '--only', 'memcheck')
  expect(first.stdout).toContain('ran with self-test 0: --tool memcheck')
  expect(readFileSync(join(first.out, 'memcheck.log'), 'utf8')).toContain('--tool memcheck')
  expect(first.summary.parts).toMatchObject({ memcheck: { status: 'passed' } })
  const again = verifyWith(programs, 'resumed', '--only', 'memcheck,racecheck')
  expect(again.stdout).toContain('--tool memcheck')
  expect(again.summary.parts.racecheck.detail).toContain('little of wgmma')
  const rest = verifyWith({ ...programs, timeout: 'exit 3' }, 'resumed', '--only', 'check')
  expect(rest.stdout).toContain('::: memcheck: passed before')
  expect(rest.summary.parts).toMatchObject({ memcheck: { status: 'passed' }, suite: { status: 'failed' } })
})

test('a part runs again on another GPU, and after a part whose results it reads', () => {
  // `timeout --kill-after=5 SECONDS node --import tsx bench/counters/launches.ts report FOLDER GPU`
  const timeout = `case $7 in report) echo '{"rows": [1], "calls": []}' >"$8/launches.json" ;; esac`
  const launches = (name = 'NVIDIA H100', ...args: string[]) => {
    const programs = { 'nvidia-smi': `echo '${name}, 9.0, 580.65.06'`, ncu: '', timeout, ...withoutTorch }
    const { stdout, summary } = verifyWith(programs, 'inputs', '--only', ...(args.length > 0 ? args : ['launches']))
    return { summary, titles: [...stdout.matchAll(/^::: (.*)/gm)].map(([, title]) => title) }
  }
  expect(launches().titles).toEqual(['profile', 'predictions'])
  expect(launches().titles).toEqual(['profile: passed before', 'predictions: passed before'])
  launches(undefined, 'times')
  expect(launches().titles).toEqual(['profile: passed before', 'predictions'])
  launches(undefined, 'profile')
  expect(launches().titles).toEqual(['profile: passed before', 'predictions'])
  const other = launches('NVIDIA H200')
  expect(other.titles).toEqual(['profile', 'predictions'])
  expect(other.summary.parts).toMatchObject({ times: { gpu: 'NVIDIA H100' }, predictions: { gpu: 'NVIDIA H200' } })
  const folders = readdirSync(join(folder, 'inputs/out'), { withFileTypes: true }).filter((each) => each.isDirectory())
  expect(folders.map(({ name }) => name)).toEqual(['none-NVIDIA-H100', 'none-NVIDIA-H200'])
})

test('a part that is skipped leaves its earlier results', () => {
  const timeout = `case $* in *pytorch.py*) echo '{"milliseconds": [1], "missing": []}' >"$6" ;; esac`
  const first = verifyWith({ timeout, 'torch.py': '' }, 'skipped', '--only', 'pytorch')
  expect(first.summary.parts.pytorch.status).toBe('passed')
  const again = verifyWith(withoutTorch, 'skipped', '--only', 'pytorch')
  expect(again.summary.parts.pytorch.status).toBe('skipped')
  expect(readdirSync(join(again.out, 'none-NVIDIA-H100-80GB-HBM3'))).toEqual(['pytorch.json'])
})

// ---- Launches ----

const jobs: Job[] = [
  ...[16, 64, 448].map((rank) => ({ tokens: 8192, d: 4096, rank, experts: 2 })),
  ...[16, 128, 896].map((rank) => ({ tokens: 512, d: 3072, rank, experts: 2 })),
  ...[16, 896].map((rank) => ({ tokens: 1, d: 4096, rank, experts: 2 })),
].flatMap((sizes) => (['batch', 'lora'] as const).map((method): Job => ({ shape: sizes, dtype: 'bfloat16', method })))

const directions = ['forward', 'backward'] as const

const plansOf = (job: Job, constants?: Constants) =>
  planCalls(
    directions.map((direction) => ({ ...job, gpu: gpus.h100, direction })),
    constants,
  )

/** What ncu would write of a job, if these constants were right. */
function ncuOutput(job: Job, constants: Constants): string {
  const header =
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",' +
    '"Section Name","Metric Name","Metric Unit","Metric Value"'
  const once = plansOf(job, constants).flatMap(({ launches }) => launches)
  const lines = Array.from({ length: REPEATS }, () => once)
    .flat()
    .flatMap(({ kernel, blocks, threads, seconds, touched }, i) =>
      [
        ['gpu__time_duration.sum', 'ns', 1e9 * (seconds - constants.launchGap)],
        ['dram__bytes_read.sum', 'byte', Math.round(touched)],
        ['dram__bytes_write.sum', 'byte', 0],
        ['lts__t_sector_hit_rate.pct', '%', 42.5],
        ['gpc__cycles_elapsed.avg.per_second', 'hz', 1_755_000_000],
      ].map(
        ([name, unit, value]) =>
          `"${i}","1","node","host","void lily::cuda::${kernel}<lily::cuda::Tile<1, 2>>(lily::cuda::Call)","1","7",` +
          `"(${threads}, 1, 1)","(${blocks}, 1, 1)","0","9.0","Command line profiler metrics","${name}","${unit}",` +
          `"${value.toLocaleString('en-US', { maximumFractionDigits: 6 })}"`,
      ),
    )
  return ['==PROF== Connected to process 1', '==PROF== Profiling "a" - 0: 100%', header, ...lines, ''].join('\n')
}

describe('launches', () => {
  const known = constantsOf(gpus.h100)
  const truth = { ...known, wgmma: 1500, l2Bytes: 30, dramLatency: 820, dramShare: 0.78, launchGap: 2.4e-6 }
  const profiles = jobs.map((job) => [job, parseNcu(ncuOutput(job, truth))] as const)
  const calls = jobs.map((job) => ({
    job,
    calls: directions,
    seconds: plansOf(job, truth).reduce((sum, plan) => sum + predictedSeconds(plan), 0),
  }))

  test('a row for each launch, with its measured numbers', () => {
    const report = reportOn('NVIDIA H100', gpus.h100, profiles, calls)
    expect(report.mismatches).toEqual([])
    const planned = jobs.flatMap((job) => plansOf(job).flatMap(({ launches }) => launches))
    expect(report.rows.map((row) => [row.planned.kernel, row.predictedSeconds])).toEqual(
      planned.map(({ kernel, seconds }) => [kernel, seconds - known.launchGap]),
    )
    for (const { measured, planned: launch } of report.rows) {
      expect(measured).toMatchObject({ bytesRead: Math.round(launch.touched), l2HitPercent: 42.5, clockHz: 1.755e9 })
    }
    const lines = textOfLaunches(report).split('\n')
    expect(
      lines.filter((line) => /^8192, 4096, 16, 2 bfloat16 batch +forward +forward_shrink /.test(line)),
    ).toHaveLength(1)
  })

  test('the fit finds the constants with which the times were made', () => {
    const found = reportOn('NVIDIA H100', gpus.h100, profiles, calls).fit()
    expect(found && textOfFit(found)).toMatch(/^launchGap /m)
    expect(found?.errorBefore).toBeGreaterThan(0.1)
    expect(found?.errorAfter).toBeLessThan(0.002)
    for (const [name, value] of Object.entries(truth)) {
      if (found?.undetermined.includes(name)) expect(found.constants[name]).toBeCloseTo(known[name], 6)
      else expect(Math.abs(Math.log((found?.constants[name] ?? 0) / value)), name).toBeLessThan(0.03)
    }
    // No float32 was measured.
    expect(found?.undetermined).toEqual(['tf32', 'fma'])
  })

  test('whole calls alone fit, too', () => {
    const report = reportOn('NVIDIA H100', gpus.h100, [], calls)
    expect(report.rows).toEqual([])
    expect(report.fit()?.errorAfter).toBeLessThan(0.01)
  })

  test('launches that were not planned are named, and are not part of the fit', () => {
    const [[job, launches], ...others] = profiles
    const changed = launches.map((each, i) => (i === 1 ? { ...each, blocks: 7 } : each))
    const { mismatches, rows } = reportOn('NVIDIA H100', gpus.h100, [[job, changed], ...others], [])
    expect(mismatches).toEqual([expect.stringMatching(/^8192, 4096, 16, 2 bfloat16 batch: .* with 7 blocks, planned /)])
    expect(rows.every((row) => row.job !== job)).toBe(true)
  })

  test('the rows are written before the fit', async () => {
    const place = join(folder, 'report')
    mkdirSync(place)
    const file = 'ncu-8192-4096-16-2-bfloat16-batch.csv'
    writeFileSync(join(place, file), ncuOutput(jobs[0], truth))
    // Of a named pipe, each reading is one that was written.
    const written = join(place, 'launches.json')
    execFileSync('mkfifo', [written])
    const args = ['--import', 'tsx', 'bench/counters/launches.ts', 'report', place, 'NVIDIA H100 80GB HBM3']
    spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] })
    const read = async () => JSON.parse(await readFile(written, 'utf8')) as { rows: unknown[] }
    const first = await read()
    expect(first.rows).not.toHaveLength(0)
    expect(first).not.toHaveProperty('fit')
    expect(await read()).toMatchObject({ rows: first.rows, fit: { before: known } })
  })

  test('each job is a file of its own, which exists as a whole or not at all', () => {
    const bin = join(folder, 'profiled')
    mkdirSync(bin)
    // The second job fails after a line.
    writeFileSync(
      join(bin, 'ncu'),
      `#!/bin/sh
while [ "$1" != --log-file ]; do shift; done
echo '==PROF==' >"$2"
case $* in *'"rank":64'*) echo '==ERROR== ERR_NVGPUCTRPERM' >>"$2"; exit 1 ;; esac
`,
      { mode: 0o755 },
    )
    const run = () =>
      spawnSync(
        process.execPath,
        [
          '--import',
          'tsx',
          'bench/counters/launches.ts',
          'profile',
          bin,
          ...jobs.slice(0, 4).map((job) => JSON.stringify(job)),
        ],
        { cwd: root, env: { ...process.env, PATH: [bin, process.env.PATH].join(delimiter) }, encoding: 'utf8' },
      )
    expect(run().stderr).toContain('ERR_NVGPUCTRPERM')
    const files = ['ncu-8192-4096-16-2-bfloat16-batch.csv', 'ncu-8192-4096-16-2-bfloat16-lora.csv']
    expect(readdirSync(bin).filter((name) => name.endsWith('.csv'))).toEqual(files)
    expect(run().stdout.trim()).toBe('8192, 4096, 64, 2 bfloat16 batch')
  })
})

// ---- The table ----

const shape = { tokens: 8192, d: 4096, rank: 16, experts: 4 }

const resultOf = (method: Result['method'], pass: Result['pass'], median: number): Result => ({
  shape,
  dtype: 'bfloat16',
  routing: 'batch',
  pass,
  method,
  rank: 16,
  median,
  spread: 0.01,
  samples: 10,
  flops: 1,
  bytes: 1,
  floor: 60e-6,
  doubts: [],
  difference: 0,
  lilyRatio: null,
  ratioToLora: 1.05,
  ratioToLayer: null,
  ratioToFused: null,
})

const reportOf = (device: string, bfloat16Source: string): Report => ({
  verdict: '',
  version: '0',
  measuredAt: '',
  command: '',
  complete: true,
  caches: 'cold',
  overheadSeconds: null,
  machine: { backend: 'cuda', device, detail: '9.0', threads: null, platform: '', node: '' },
  model: { layers: 1, strideA: 1 },
  roofs: { flops: 1, bfloat16Flops: 700e12, bfloat16Source, float16Flops: 1, memory: [] },
  notes: [],
  failures: [],
  results: [
    resultOf('lily', 'forward', 80e-6),
    resultOf('lora', 'forward', 75e-6),
    resultOf('lily-graph', 'forward', 78e-6),
    resultOf('lily', 'forward+backward', 200e-6),
    resultOf('lora', 'forward+backward', 190e-6),
  ],
})

const pytorch: PytorchReport = {
  pytorch: '2.99',
  milliseconds: (
    [
      ['lily', false, 0.4, 1.25],
      ['lily', true, 0.16, 0.5],
      ['lora', false, 0.111, 0.333],
      ['products', false, 0.088, 0.222],
    ] as const
  ).map(([method, compiled, forward, both]) => ({
    method,
    compiled,
    shape: [8192, 4096, 16, 4],
    dtype: 'bfloat16',
    forward: { median: forward },
    'forward+backward': { median: both },
  })),
}

/** The cells of the lines about the shape, by the titles of their columns from the first number on. */
const cellsOf = (table: string): string[][] =>
  table
    .split('\n')
    .filter((line) => line.startsWith('8192'))
    .map((line) => line.split(/ {2,}/).slice(3))

const microseconds = (direction: 'forward' | 'backward') =>
  1e6 * predictedSeconds(planCall({ gpu: gpus.h100, shape, dtype: 'bfloat16', method: 'batch', direction }))

test('the table has the predicted time, ours, the floor, LoRA and PyTorch', () => {
  const table = gpuTable(reportOf('NVIDIA H100 80GB HBM3', 'cuBLASLt'), pytorch)
  const [forward, backward] = [microseconds('forward'), microseconds('backward')]
  expect(cellsOf(table)).toEqual([
    [
      forward.toFixed(1),
      '80.0',
      (80 / forward).toFixed(2),
      ...'75% 78.0 75.0 1.05 400.0 5.00 160.0 2.00 111.0 - 88.0'.split(' '),
    ],
    [
      (forward + backward).toFixed(1),
      '200.0',
      (200 / (forward + backward)).toFixed(2),
      ...'30% - 190.0 1.05 1250.0 6.25 500.0 2.50 333.0 - 222.0'.split(' '),
    ],
  ])
  expect(table).toContain('700.0 TFLOP/s, cuBLASLt')
  expect(table).toContain('PyTorch 2.99')
})

test('the table says what is missing: the GPU, PyTorch, cuBLASLt', () => {
  const table = gpuTable(reportOf('NVIDIA T400', 'a loop on registers (cuBLASLt was not found)'))
  const rest = Array<string>(7).fill('-')
  expect(cellsOf(table)).toEqual([
    ['-', '80.0', '-', '75%', '78.0', '75.0', '1.05', ...rest],
    ['-', '200.0', '-', '30%', '-', '190.0', '1.05', ...rest],
  ])
  expect(table).toContain('not in bench/counters/gpus.ts')
  expect(table).toContain('PyTorch (not measured)')
  expect(table).toContain('a loop on registers (cuBLASLt was not found)')
})

test('--packed unpacks once, without xz, and results stay outside', () => {
  const place = join(folder, 'without-xz')
  for (const name of ['bin', 'scripts', 'build/bin']) mkdirSync(join(place, name), { recursive: true })
  cpSync(join(root, 'scripts/gpu-verify.sh'), join(place, 'scripts/gpu-verify.sh'))
  writeFileSync(join(place, 'build/bin/node'), '#!/bin/sh\necho "node $*"\n', { mode: 0o755 })
  execFileSync('python3', ['-m', 'tarfile', '-c', 'pack.tar.xz', 'build/bin/node', 'scripts'], { cwd: place })
  rmSync(join(place, 'build'), { recursive: true })
  const outputOf = (command: string, args: string[]) => execFileSync(command, args, { encoding: 'utf8' }).trim()
  for (const name of ['cat', 'cksum', 'dirname', 'mkdir', 'rm', 'sh', 'tar', 'wc'])
    symlinkSync(outputOf('which', [name]), join(place, 'bin', name))
  symlinkSync(outputOf('python3', ['-c', 'import sys; print(sys.executable)']), join(place, 'bin/python3'))
  const run = (...args: string[]) =>
    spawnSync('sh', ['scripts/gpu-verify.sh', '--packed', 'pack.tar.xz', ...args], {
      cwd: place,
      env: { PATH: join(place, 'bin') },
      encoding: 'utf8',
    })
  const { status, stdout, stderr } = run('--only', 'check')
  expect(status, stderr).toBe(0)
  const script = join(place, 'build/packed/scripts/gpu-verify.js')
  expect(stdout).toBe(`node ${script} --out ${join(place, 'build/gpu-verify')} --only check\n`)
  // That is there is not unpacked again.
  rmSync(join(place, 'bin/python3'))
  expect(run('--out', 'there').stdout).toBe(`node ${script} --out there\n`)
})

test('what --pack leaves out are development dependencies', () => {
  const script = readFileSync(`${root}/scripts/gpu-verify.sh`, 'utf8')
  const list = /for each in ([^;]+); do/.exec(script)?.[1].replaceAll('\\', ' ').split(/\s+/) ?? []
  const { devDependencies } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8')) as {
    devDependencies: Record<string, string>
  }
  expect(list).toContain('vitepress')
  expect(Object.keys(devDependencies)).toEqual(expect.arrayContaining(list))
})
