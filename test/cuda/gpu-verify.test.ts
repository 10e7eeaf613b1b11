/** scripts/gpu-verify.js without a GPU: its steps, and its table of predicted and measured times. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { gpus } from '../../bench/counters/gpus.js'
import { planCall, predictedSeconds } from '../../bench/counters/plan.js'
import type { Report, Result } from '../../bench/harness/report.js'
import { gpuTable, type PytorchReport } from '../../bench/peers/gpu-table.js'
import { temporaryFolder } from '../support/temporary.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('the steps that tell most come first, and end within ten minutes', () => {
  const listed = execFileSync(process.execPath, ['scripts/gpu-verify.js', '--list'], { cwd: root, encoding: 'utf8' })
  const steps = listed
    .trim()
    .split('\n')
    .map((line) => line.split(' '))
  const measured = ['build', 'self-test', 'bench', 'pytorch', 'table']
  const checked = ['package', 'suite', 'memcheck', 'racecheck', 'synccheck', 'emulator']
  expect(steps.map(([name]) => name)).toEqual([...measured, ...checked])
  expect(steps.reduce((sum, [, seconds]) => sum + Number(seconds), 0)).toBeLessThan(600)
})

const folder = temporaryFolder()

/**
 * Runs the script with shell programs of these names in the place of others. It is a copy of the script, because this may be
 * the suite of a run of the script itself, whose figures are in build/gpu-verify.
 */
function verifyWith(programs: Record<string, string>, step: string) {
  const copy = join(folder, step)
  for (const name of ['scripts', 'package.json']) cpSync(join(root, name), join(copy, name), { recursive: true })
  const bin = join(copy, 'bin')
  mkdirSync(bin)
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  }
  const script = ['scripts/gpu-verify.js', '--only', step, '--out', join(copy, 'out.json')]
  return spawnSync(process.execPath, script, {
    cwd: copy,
    env: { ...process.env, LILY_SELF_TEST: '1', PATH: [bin, process.env.PATH].join(delimiter) },
    encoding: 'utf8',
  })
}

const nvidiaSmi = "echo 'NVIDIA H100 80GB HBM3, 9.0, 580.65.06'"

test('the build fails without nvcc, and has code for the GPU present only', () => {
  const cmake = `printf '%s\\n' "$@"`
  const { status, stdout, stderr } = verifyWith({ 'nvidia-smi': nvidiaSmi, python3: ':', cmake }, 'build')
  expect(status, stderr).toBe(0)
  const given = stdout.split('\n')
  expect(given).toContain('-DLILY_CUDA=ON')
  expect(given).toContain('-DLILY_CUDA_TARGETS=arch=compute_90a,code=[sm_90a]')
})

test('a step that is stopped while it writes its results does not prevent the later steps', () => {
  // Of `python3 bench/peers/pytorch.py --json FILE ...`, and of `python3 -c 'import torch'`.
  const python3 = `[ "$1" = -c ] || printf '{"milliseconds": [' >"$3"`
  const { status, stdout, stderr } = verifyWith({ 'nvidia-smi': nvidiaSmi, python3 }, 'pytorch')
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^pytorch +failed .*was not written, or not to its end$/m)
  expect(status).toBe(1)
})

test('the time of compute-sanitizer is for its calls, not for the self-test of the process', () => {
  const sanitizer = 'echo "self-test $LILY_SELF_TEST of $*"'
  const { status, stdout, stderr } = verifyWith({ 'nvidia-smi': nvidiaSmi, 'compute-sanitizer': sanitizer }, 'memcheck')
  expect(status, stderr).toBe(0)
  expect(stdout).toContain('self-test 0 of --tool memcheck')
})

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
  ratioToLora: 1.05,
  ratioToLayer: null,
  ratioToFused: null,
})

const reportOf = (device: string, bfloat16Source: string): Report => ({
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

test('--tools unpacks without xz', () => {
  const place = join(folder, 'without-xz')
  cpSync(join(root, 'scripts'), join(place, 'scripts'), { recursive: true })
  for (const name of ['bin', 'build']) mkdirSync(join(place, name))
  writeFileSync(join(place, 'build/node'), '#!/bin/sh\necho "node $*"\n', { mode: 0o755 })
  execFileSync('python3', ['-m', 'tarfile', '-c', 'pack.tar.xz', 'build/node'], { cwd: place })
  rmSync(join(place, 'build'), { recursive: true })
  const outputOf = (command: string, args: string[]) => execFileSync(command, args, { encoding: 'utf8' }).trim()
  for (const name of ['dirname', 'mkdir', 'mv', 'sh', 'tar'])
    symlinkSync(outputOf('which', [name]), join(place, 'bin', name))
  symlinkSync(outputOf('python3', ['-c', 'import sys; print(sys.executable)']), join(place, 'bin/python3'))
  const { status, stdout, stderr } = spawnSync('sh', ['scripts/gpu-verify.sh', '--tools', 'pack.tar.xz', '--list'], {
    cwd: place,
    env: { PATH: join(place, 'bin') },
    encoding: 'utf8',
  })
  expect(status, stderr).toBe(0)
  expect(stdout).toBe('node scripts/gpu-verify.js --list\n')
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
