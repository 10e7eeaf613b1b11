#!/usr/bin/env node
// All that should be tried on a machine with a GPU, in under ten minutes: the build, the emulator compared with the device,
// the whole suite on it, compute-sanitizer, the benchmark and, where PyTorch is installed, its figures for the same
// shapes. Prints a table last and writes one JSON into bench/results. A step that fails, or takes longer than it and those
// before it may together, does not keep the others from running.
//
//   node scripts/gpu-verify.js [--out FILE] [--only STEP,...]
//   node scripts/gpu-verify.js --emulated      the same steps on the emulator with less work: it tries this script
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'gpu-verify')
const { values: options } = parseArgs({
  options: { emulated: { type: 'boolean', default: false }, out: { type: 'string' }, only: { type: 'string' } },
})
const isEmulated = options.emulated

/** @typedef {{ status: 'passed' | 'failed' | 'skipped', seconds: number, detail: string, data?: unknown }} Outcome */

/** @type {(command: string, args?: string[]) => string | null} */
function answer(command, args = ['--version']) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : null
}

const gpu = answer('nvidia-smi', ['--query-gpu=name,compute_cap,driver_version', '--format=csv,noheader'])
const python = ['python3', '/usr/bin/python3'].find((each) => answer(each, ['-c', 'import torch']) !== null)
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'cuda']
const emulated = isEmulated ? [process.execPath, 'scripts/emulated.js'] : []

// Large and small ranks, decoding, and what PEFT ships; on the emulator what takes seconds.
const shapes = isEmulated
  ? ['64,128,16,4']
  : ['8192,4096,16,4', '8192,4096,64,4', '2048,4096,448,2', '512,3072,896,2', '512,768,16,4', '1,4096,16,4']

/** Calls for compute-sanitizer: each formulation, each engine, ragged sizes. */
const sanitized = [
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'float16', method: 'token' },
  { shape: { tokens: 65, d: 136, rank: 33, experts: 3 }, dtype: 'mixed', method: 'sequence' },
  { shape: { tokens: 65, d: 136, rank: 140, experts: 2 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 1, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 65, d: 136, rank: 20, experts: 2 }, dtype: 'float32', method: 'lora' },
]

const tests = join(root, 'build', 'test-results.json')
const figures = { bench: join(folder, 'bench.json'), pytorch: join(folder, 'pytorch.json') }

/** @type {(tool: string) => string | null} */
function whyNot(tool) {
  return isEmulated || answer(tool) !== null ? null : `${tool} was not found`
}

/**
 * `limit`: seconds on a GPU, which add up to less than ten minutes. `file`: what the step writes; `find`: how much is in it,
 * and in words.
 *
 * @type {{ name: string, limit: number, why?: string | null, command: string[], env?: NodeJS.ProcessEnv, file?: string, find?: (written: any) => readonly [number, string] }[]}
 */
const steps = [
  {
    name: 'build',
    limit: 150,
    command: [process.execPath, 'scripts/build-native.js'],
  },
  {
    name: 'emulator',
    limit: 60,
    command: ['scripts/compare-emulator.sh', ...(isEmulated ? ['--emulated-twice'] : [])],
  },
  {
    name: 'suite',
    limit: 130,
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
    limit: 30,
    why: whyNot('compute-sanitizer'),
    command: [
      // The emulator has checks of its own.
      ...(isEmulated ? emulated : ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']),
      ...[process.execPath, '--import', 'tsx', 'bench/counters/counted-call.ts', 'forward+backward'],
      ...sanitized.map((job) => JSON.stringify(job)),
    ],
  })),
  {
    name: 'bench',
    limit: 80,
    command: [
      ...[...emulated, process.execPath, '--import', 'tsx', 'cli/main.ts', 'bench', '--backend', 'cuda'],
      ...['--json', figures.bench, '--dtype', 'bfloat16,mixed', '--seconds', isEmulated ? '5' : '60'],
      ...shapes.flatMap((shape) => ['--shape', shape]),
    ],
    file: figures.bench,
    find: (/** @type {{ results: unknown[] }[]} */ [{ results }]) => [results.length, `${results.length} figures`],
  },
  {
    name: 'pytorch',
    limit: 80,
    why: python === undefined ? 'PyTorch was not found' : null,
    command: [
      ...[python ?? '', 'bench/peers/pytorch.py', '--json', figures.pytorch, '--seconds', '0.1', '--limit', '60'],
      ...['--device', isEmulated ? 'cpu' : 'cuda', ...shapes],
    ],
    file: figures.pytorch,
    find: (/** @type {{ milliseconds: unknown[], missing: unknown[] }} */ { milliseconds, missing }) => [
      milliseconds.length,
      `${milliseconds.length} figures, no time for ${missing.length}`,
    ],
  },
]

/** @type {(step: (typeof steps)[number], seconds: number) => Outcome} */
function run({ why, command, env, file, find }, limit) {
  if (why) return { status: 'skipped', seconds: 0, detail: why }
  if (file !== undefined) rmSync(file, { force: true })
  const begin = performance.now()
  // Unlike the time limit of spawnSync it ends what a step has started, too.
  const { status, error } = spawnSync('timeout', ['--kill-after=5', String(limit), ...command], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  const seconds = Math.round((performance.now() - begin) / 100) / 10
  /** @type {unknown} */
  const written = file !== undefined && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined
  const [found, text] = written === undefined ? [0, `did not write ${file}`] : (find?.(written) ?? [0, ''])
  const texts = file === undefined ? [] : [text]
  if (status === 124 || status === 137) texts.push(`was stopped after ${limit} s`)
  else if (status !== 0) texts.push(error?.message ?? `ended with ${status ?? 'a signal'}`)
  const isGood = status === 0 && (file === undefined || found > 0)
  // Of the suite the numbers do: its file names every test.
  const data = file === tests ? undefined : written
  return { status: isGood ? 'passed' : 'failed', seconds, detail: texts.join('; '), data }
}

if (gpu === null && !isEmulated) {
  console.error('gpu-verify: nvidia-smi was not found: no GPU here; --emulated tries the script without one')
  process.exit(2)
}
const only = options.only?.split(',')
const unknown = only?.find((name) => !steps.some((step) => step.name === name))
if (unknown !== undefined) {
  console.error(`gpu-verify: --only takes ${steps.map(({ name }) => name).join(', ')}, not ${unknown}`)
  process.exit(2)
}
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })

const machine = {
  gpu: isEmulated ? 'emulated' : gpu,
  nvcc: answer('nvcc')?.split('\n').at(-1) ?? null,
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
// What a step leaves of its time is there for later ones. The emulator takes longer.
let deadline = performance.now()
for (const step of steps) {
  if (only !== undefined && !only.includes(step.name)) continue
  console.log(`\n::: ${step.name}`)
  deadline += step.limit * 1000 * (isEmulated ? 10 : 1)
  outcomes[step.name] = run(step, Math.max(1, Math.ceil((deadline - performance.now()) / 1000)))
  // After each, for a run that is cut short.
  writeFileSync(out, `${JSON.stringify({ machine, steps: outcomes }, null, 2)}\n`)
}

console.log(`\n${machine.gpu}, ${machine.nvcc ?? 'no nvcc'}, Node ${machine.node}`)
for (const [name, { status, seconds, detail }] of Object.entries(outcomes)) {
  console.log(`${name.padEnd(10)} ${status.padEnd(8)} ${`${seconds.toFixed(1)} s`.padStart(8)}  ${detail}`)
}
console.log(`written to ${out}`)
process.exitCode = Object.values(outcomes).some(({ status }) => status === 'failed') ? 1 : 0
