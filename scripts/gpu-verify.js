#!/usr/bin/env node
// All that should be tried on a machine with a GPU, in under ten minutes: the build, the whole suite on the device, the
// emulator compared with it, compute-sanitizer, the benchmark and, where PyTorch is installed, its figures for the same
// shapes. Prints a table last and writes one JSON into bench/results. Each step has a time limit of its own, and one that
// fails does not keep the others from running.
//
//   node scripts/gpu-verify.js [--out FILE] [--only STEP,...]
//   node scripts/gpu-verify.js --emulated      the same steps on the emulator with less work: it tries this script
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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
const emulated = isEmulated ? ['scripts/emulated.js', process.execPath] : []

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

/** @type {{ name: string, limit: number, why?: string | null, commands: string[][], collect?: () => { detail: string, data: unknown } }[]} */
const steps = [
  {
    name: 'build',
    limit: 240,
    commands: [
      [process.execPath, 'scripts/build-native.js'],
      [process.execPath, 'node_modules/tsdown/dist/run.mjs'],
    ],
  },
  {
    name: 'suite',
    limit: 240,
    commands: [[process.execPath, ...vitest, ...(isEmulated ? ['test/golden.test.ts'] : [])]],
    collect: () => {
      const results = readJson(join(root, 'build', 'test-results.json'))
      const { numPassedTests: passed, numFailedTests: failed } =
        /** @type {{ numPassedTests: number, numFailedTests: number }} */ (results)
      return { detail: `${passed} passed, ${failed} failed`, data: { passed, failed } }
    },
  },
  {
    name: 'emulator',
    limit: 180,
    commands: [['scripts/compare-emulator.sh', ...(isEmulated ? ['--emulated-twice'] : [])]],
  },
  ...['memcheck', 'racecheck', 'synccheck'].map((tool) => ({
    name: tool,
    limit: 60,
    why: isEmulated
      ? 'the emulator has checks of its own'
      : answer('compute-sanitizer') === null
        ? 'compute-sanitizer was not found'
        : null,
    commands: sanitized.map((job) => [
      ...['compute-sanitizer', '--tool', tool, '--error-exitcode', '9', process.execPath],
      ...['--import', 'tsx', 'bench/counted-call.ts', JSON.stringify(job), 'backward'],
    ]),
  })),
  {
    name: 'bench',
    limit: 150,
    commands: [
      [
        ...[
          process.execPath,
          ...emulated,
          '--import',
          'tsx',
          'lib/cli/main.ts',
          'bench',
          '--backend',
          'cuda',
          '--cold',
        ],
        ...['--json', join(folder, 'bench.json'), '--dtype', 'bfloat16,mixed', '--seconds', isEmulated ? '5' : '60'],
        ...shapes.flatMap((shape) => ['--shape', shape]),
      ],
    ],
    collect: () => ({ detail: 'see the JSON', data: readJson(join(folder, 'bench.json')) }),
  },
  {
    name: 'pytorch',
    limit: 150,
    why: python === undefined ? 'PyTorch was not found' : null,
    commands: [
      [
        ...[python ?? '', 'bench/peers/pytorch.py', '--json', join(folder, 'pytorch.json'), '--seconds', '0.2'],
        ...(isEmulated ? ['--device', 'cpu'] : []),
        ...shapes,
      ],
    ],
    collect: () => ({ detail: 'see the JSON', data: readJson(join(folder, 'pytorch.json')) }),
  },
]

/** @type {(file: string) => unknown} */
function readJson(file) {
  return JSON.parse(readFileSync(file, 'utf8'))
}

/** @type {(step: (typeof steps)[number]) => Outcome} */
function run({ limit, why, commands, collect }) {
  if (why) return { status: 'skipped', seconds: 0, detail: why }
  const begin = performance.now()
  const seconds = () => Math.round((performance.now() - begin) / 100) / 10
  for (const [command, ...args] of commands) {
    const timeout = Math.max(1, limit - seconds()) * 1000
    const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', timeout })
    if (status === 0) continue
    const what = error?.message ?? `ended with ${status ?? 'a signal'}`
    return { status: 'failed', seconds: seconds(), detail: `${command} ${args.slice(0, 3).join(' ')} ...: ${what}` }
  }
  return { status: 'passed', seconds: seconds(), ...(collect?.() ?? { detail: '' }) }
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

/** @type {Record<string, Outcome>} */
const outcomes = {}
for (const step of steps) {
  if (only !== undefined && !only.includes(step.name)) continue
  console.log(`\n::: ${step.name}`)
  outcomes[step.name] = run(step)
}

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
writeFileSync(out, `${JSON.stringify({ machine, steps: outcomes }, null, 2)}\n`)

console.log(`\n${machine.gpu}, ${machine.nvcc ?? 'no nvcc'}, Node ${machine.node}`)
for (const [name, { status, seconds, detail }] of Object.entries(outcomes)) {
  console.log(`${name.padEnd(10)} ${status.padEnd(8)} ${`${seconds.toFixed(1)} s`.padStart(8)}  ${detail}`)
}
console.log(`written to ${out}`)
process.exitCode = Object.values(outcomes).some(({ status }) => status === 'failed') ? 1 : 0
