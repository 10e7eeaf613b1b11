#!/usr/bin/env node
// Runs all checks that require a GPU, in under ten minutes. The steps are in the order of what they tell, in case the run
// is cut short: the build, a self-test, the benchmark and PyTorch's times for the same shapes, with a table of both; then
// the test suite, after the built package that it imports, compute-sanitizer, and the comparison of the emulator with the
// GPU. Writes one JSON file to bench/results after every step. A step that fails or exceeds its time limit does not prevent
// the later steps; time that one step does not use is available to the next. With --only, the steps have the time of those
// left out: where the machine allows ten minutes per command and keeps files, `--only build` may run first.
//
//   node scripts/gpu-verify.js [--out FILE] [--only STEP,...]
//   node scripts/gpu-verify.js --list          print the steps and their time limits in seconds
//   node scripts/gpu-verify.js --emulated      run the same steps with less work on the emulator, to test this script
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { codeOf, targetOf } from './cuda-targets.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'gpu-verify')
const { values: options } = parseArgs({
  options: {
    emulated: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    out: { type: 'string' },
    only: { type: 'string' },
  },
})
const isEmulated = options.emulated

/** @typedef {{ status: 'passed' | 'failed' | 'skipped', seconds: number, detail: string, data?: unknown }} Outcome */

/** @type {(command: string, args?: string[]) => string | null} */
function outputOf(command, args = ['--version']) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : null
}

const gpu = outputOf('nvidia-smi', ['--query-gpu=name,compute_cap,driver_version', '--format=csv,noheader'])
const python = ['python3', '/usr/bin/python3'].find((each) => outputOf(each, ['-c', 'import torch']) !== null)
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'cuda']
const emulated = isEmulated ? [process.execPath, 'scripts/emulated.js'] : []

// Large and small ranks, decoding, and the default of PEFT; on the emulator a shape that takes seconds.
const shapes = isEmulated
  ? ['64,128,16,4']
  : ['8192,4096,16,4', '8192,4096,64,4', '2048,4096,448,2', '512,3072,896,2', '512,768,16,4', '1,4096,16,4']

/** Calls for compute-sanitizer: every routing granularity and kind of kernel, with sizes that no tile divides. */
const sanitized = [
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'float16', method: 'token' },
  { shape: { tokens: 65, d: 136, rank: 33, experts: 3 }, dtype: 'mixed', method: 'sequence' },
  { shape: { tokens: 65, d: 136, rank: 140, experts: 2 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 1, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 65, d: 136, rank: 20, experts: 2 }, dtype: 'float32', method: 'lora' },
]

const tests = join(root, 'build', 'test-results.json')
/** Builds dist/, which tests import. A pack has dist/ in its place. */
const tsdown = 'node_modules/tsdown/dist/run.mjs'
const figures = { bench: join(folder, 'bench.json'), pytorch: join(folder, 'pytorch.json') }

/** Where PyTorch's packages and the CUDA toolkit may have cuBLASLt. @type {() => string[]} */
function libraryFolders() {
  const ask = `import glob, os, torch
print(*glob.glob(os.path.join(os.path.dirname(os.path.dirname(torch.__file__)), 'nvidia', '*', 'lib')), sep='\\n')`
  const ofPython = python === undefined ? [] : (outputOf(python, ['-c', ask]) ?? '').split('\n').filter(Boolean)
  const nvcc = outputOf('which', ['nvcc'])
  return [...ofPython, ...(nvcc === null ? [] : [join(dirname(dirname(nvcc)), 'lib64')])]
}

/**
 * Code for the GPU present only, compiled on all cores: the largest file of a development build takes minutes on one.
 *
 * @type {() => NodeJS.ProcessEnv}
 */
function buildForGpu() {
  const architecture = Number(gpu?.split(',')[1]?.trim().replace('.', ''))
  const code = codeOf({ ...targetOf(architecture), real: [architecture] })
  return {
    // ON: without a suitable nvcc the build fails, and says why.
    LILY_CMAKE_ARGS: `${process.env.LILY_CMAKE_ARGS ?? ''} -DLILY_CUDA=ON -DLILY_CUDA_TARGETS=${code}`,
    NVCC_APPEND_FLAGS: '--split-compile 0 -lineinfo',
  }
}

/** @type {(tool: string) => string | null} */
function whyNot(tool) {
  return isEmulated || outputOf(tool) !== null ? null : `${tool} was not found`
}

/**
 * `limit`: time limit on a GPU in seconds; the sum is below ten minutes. `file`: output of the step. `find`: number of
 * results in the output, and a summary.
 *
 * @type {{ name: string, limit: number, why?: string | null, command: string[], env?: NodeJS.ProcessEnv, file?: string, find?: (written: any) => readonly [number, string] }[]}
 */
const steps = [
  {
    name: 'build',
    // Without it the later steps have nothing to run, and nvcc takes two minutes of processor time for the PTX alone, not all
    // of it side by side.
    limit: 280,
    command: isEmulated
      ? ['sh', '-c', 'npm run build:native && npm run build:emulator']
      : [process.execPath, 'scripts/build-native.js'],
    env: isEmulated ? {} : buildForGpu(),
  },
  {
    name: 'self-test',
    limit: 20,
    command: [...emulated, process.execPath, '--import', 'tsx', 'cli/main.ts', 'doctor'],
  },
  {
    name: 'bench',
    limit: 80,
    command: [
      ...emulated,
      process.execPath,
      '--import',
      'tsx',
      'cli/main.ts',
      'bench',
      '--backend',
      'cuda',
      '--json',
      figures.bench,
      '--dtype',
      'bfloat16,mixed',
      '--seconds',
      isEmulated ? '5' : '60',
      ...shapes.flatMap((shape) => ['--shape', shape]),
    ],
    // For cuBLASLt, the roof.
    env: { LD_LIBRARY_PATH: [process.env.LD_LIBRARY_PATH, ...libraryFolders()].filter(Boolean).join(delimiter) },
    file: figures.bench,
    find: (/** @type {{ results: unknown[] }[]} */ [{ results }]) => [results.length, `${results.length} figures`],
  },
  {
    name: 'pytorch',
    limit: 80,
    why: python === undefined ? 'PyTorch was not found' : null,
    command: [
      python ?? '',
      'bench/peers/pytorch.py',
      '--json',
      figures.pytorch,
      '--seconds',
      '0.1',
      '--limit',
      '60',
      '--dtype',
      'bfloat16',
      '--dtype',
      'mixed',
      '--device',
      isEmulated ? 'cpu' : 'cuda',
      ...shapes,
    ],
    file: figures.pytorch,
    find: (/** @type {{ milliseconds: unknown[], missing: unknown[] }} */ { milliseconds, missing }) => [
      milliseconds.length,
      `${milliseconds.length} figures, ${missing.length} not measured`,
    ],
  },
  {
    name: 'table',
    limit: 10,
    command: [process.execPath, '--import', 'tsx', 'bench/peers/gpu-table.ts', figures.bench, figures.pytorch],
  },
  {
    name: 'package',
    limit: 9,
    why: existsSync(join(root, tsdown)) ? null : 'dist/ is that of the pack',
    command: [process.execPath, tsdown],
  },
  {
    name: 'suite',
    limit: 60,
    command: [process.execPath, ...vitest, ...(isEmulated ? ['test/golden.test.ts'] : [])],
    env: isEmulated ? {} : { LILY_TEST_GPU: '1' },
    file: tests,
    find: (/** @type {{ numPassedTests: number, numFailedTests: number }} */ { numPassedTests, numFailedTests }) => [
      numPassedTests,
      `${numPassedTests} passed, ${numFailedTests} failed`,
    ],
  },
  ...['memcheck', 'racecheck', 'synccheck'].map((tool) => ({
    name: tool,
    limit: 12,
    why: whyNot('compute-sanitizer'),
    command: [
      // The emulator performs its own checks.
      ...(isEmulated ? emulated : ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']),
      process.execPath,
      '--import',
      'tsx',
      'bench/counters/counted-call.ts',
      'forward+backward',
      ...sanitized.map((job) => JSON.stringify(job)),
    ],
    // These tools are slow: their time is for the calls above, and the self-test is a step of its own.
    env: { LILY_SELF_TEST: '0' },
  })),
  {
    name: 'emulator',
    limit: 24,
    command: ['scripts/compare-emulator.sh', ...(isEmulated ? ['--emulated-twice'] : [])],
  },
]

/** Undefined if there is no such file, or if a step was stopped while it wrote it. @type {(file: string) => unknown} */
function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** @type {(step: (typeof steps)[number], seconds: number) => Outcome} */
function run({ why, command, env, file, find }, limit) {
  if (file !== undefined) rmSync(file, { force: true })
  if (why) return { status: 'skipped', seconds: 0, detail: why }
  const begin = performance.now()
  // Unlike the timeout of spawnSync, this also ends the processes that a step has started.
  const { status, error } = spawnSync('timeout', ['--kill-after=5', String(limit), ...command], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  const seconds = Math.round((performance.now() - begin) / 100) / 10
  const written = file === undefined ? undefined : readJson(file)
  const [found, text] =
    written === undefined ? [0, `${file} was not written, or not to its end`] : (find?.(written) ?? [0, ''])
  const texts = file === undefined ? [] : [text]
  if (status === 124 || status === 137) texts.push(`stopped after ${limit} s`)
  else if (status !== 0) texts.push(error?.message ?? `exited with ${status ?? 'a signal'}`)
  const isGood = status === 0 && (file === undefined || found > 0)
  // The summary of the test suite is sufficient: its file lists every test.
  const data = file === tests ? undefined : written
  return { status: isGood ? 'passed' : 'failed', seconds, detail: texts.join('; '), data }
}

if (options.list) {
  for (const { name, limit } of steps) console.log(`${name} ${limit}`)
  process.exit()
}
if (gpu === null && !isEmulated) {
  console.error('gpu-verify: nvidia-smi was not found, so there is no GPU; --emulated tests the script without one')
  process.exit(2)
}
const only = options.only?.split(',')
const unknown = only?.find((name) => !steps.some((step) => step.name === name))
if (unknown !== undefined) {
  console.error(`gpu-verify: --only: unknown step ${unknown}; expected ${steps.map(({ name }) => name).join(', ')}`)
  process.exit(2)
}
mkdirSync(folder, { recursive: true })

const machine = {
  gpu: isEmulated ? 'emulated' : gpu,
  nvcc: outputOf('nvcc')?.split('\n').at(-1) ?? null,
  node: process.version,
  cores: availableParallelism(),
}
const label = isEmulated
  ? 'emulated'
  : (gpu ?? '')
      .split(',')[0]
      .trim()
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
const out = options.out ?? join(root, isEmulated ? 'build' : 'bench/results', `gpu-verify-${label}.json`)

/** @type {Record<string, Outcome>} */
const outcomes = {}
// Time that one step does not use is available to the next, as is that of the steps that --only leaves out. The emulator
// gets ten times the limit.
const isSelected = (/** @type {{ name: string }} */ { name }) => only === undefined || only.includes(name)
const milliseconds = (/** @type {{ limit: number }} */ { limit }) => limit * 1000 * (isEmulated ? 10 : 1)
let deadline = performance.now()
for (const step of steps) if (!isSelected(step)) deadline += milliseconds(step)
for (const step of steps.filter(isSelected)) {
  console.log(`\n::: ${step.name}`)
  deadline += milliseconds(step)
  outcomes[step.name] = run(step, Math.max(1, Math.ceil((deadline - performance.now()) / 1000)))
  // Written after every step, in case the run is interrupted.
  writeFileSync(out, `${JSON.stringify({ machine, steps: outcomes }, null, 2)}\n`)
}

// Once more below the output of the later steps.
if (outcomes.table?.status === 'passed') {
  const table = steps.find(({ name }) => name === 'table')
  if (table !== undefined) console.log(`\n${outputOf(table.command[0], table.command.slice(1)) ?? ''}`)
}
console.log(`\n${machine.gpu}, ${machine.nvcc ?? 'no nvcc'}, Node ${machine.node}`)
for (const [name, { status, seconds, detail }] of Object.entries(outcomes)) {
  console.log(`${name.padEnd(10)} ${status.padEnd(8)} ${`${seconds.toFixed(1)} s`.padStart(8)}  ${detail}`)
}
console.log(`results: ${out}`)
process.exitCode = Object.values(outcomes).some(({ status }) => status === 'failed') ? 1 : 0
