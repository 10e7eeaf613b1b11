#!/usr/bin/env node
// Runs all checks that require a GPU, in three steps of less than ten minutes each: a machine may be lent for minutes, and be
// gone between two commands. Every part of a step writes its results at once; a part that fails or exceeds its time limit does
// not prevent the later ones, and time that it does not use is available to the next. Where OUT has the result of a part that
// passed with the same library on the same GPU, the part does not run again, unless --only names it, or a part whose results
// it reads has run since. Measured times are in a folder of OUT for each library and GPU.
//
//   node scripts/gpu-verify.js [--out OUT] [--only NAME,...]
//     --out OUT     folder of the results (default: build/gpu-verify)
//     --only NAME   steps or parts
//     --list        print the steps, their parts, and the time limits in seconds
//     --emulated    run the same with less work on the emulator, to test this script
//
//   check      the self-test; the tests of every kernel; instructions compared with the emulator; the suite; compute-sanitizer
//   bench      times, with outputs compared with those of the cpu backend, and replays of graphs; PyTorch; a table of both
//   launches   Nsight Compute: time and bytes of each launch beside the prediction of the long model (bench/counters/model),
//              and the constants of the GPU with which that model fits the times
//
// scripts/gpu-verify.sh carries a build to a machine without Node, npm or nvcc.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createWriteStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const { values: options } = parseArgs({
  options: {
    emulated: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    out: { type: 'string' },
    only: { type: 'string' },
  },
})
const isEmulated = options.emulated
const out = resolve(options.out ?? join(root, 'build', 'gpu-verify'))

/** @typedef {{ status: 'passed' | 'failed' | 'skipped', seconds: number, detail: string, library: string, gpu: string }} Outcome */

/** @type {(command: string, args?: string[]) => string | null} */
function outputOf(command, args = ['--version']) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : null
}

/** @type {<T>(ask: () => T) => () => T} */
function once(ask) {
  /** @type {{ answer: ReturnType<typeof ask> } | undefined} */
  let known
  return () => (known ??= { answer: ask() }).answer
}

const gpu = outputOf('nvidia-smi', ['--query-gpu=name,compute_cap,driver_version', '--format=csv,noheader'])
const gpuName = isEmulated ? 'Lily emulator' : (gpu?.split(',')[0].trim() ?? '')
const library = (() => {
  const file = join(root, 'build', isEmulated ? 'emulator' : 'Release', 'lily_cuda.so')
  return existsSync(file) ? createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 16) : 'none'
})()
/** A Python with PyTorch. Asked once, because importing it takes seconds. @type {() => string | undefined} */
const python = once(() =>
  ['python3', '/usr/bin/python3'].find((each) => outputOf(each, ['-c', 'import torch']) !== null),
)
const emulated = isEmulated ? [process.execPath, 'scripts/emulated.js'] : []
const tsx = [process.execPath, '--import', 'tsx']
const vitest = [process.execPath, 'node_modules/vitest/vitest.mjs', 'run', '--project', 'cuda']

/**
 * M,d,r,E. Training at d = 4096 and the ranks of PEFT's experiments; the shapes of docs/performance.md, decoding among them;
 * and one more token than splits of d serve.
 */
const shapes = isEmulated
  ? ['64,128,16,4']
  : [
      ...['8192,4096,16,4', '8192,4096,64,4', '8192,4096,128,4', '8192,4096,448,2', '8192,4096,896,2'],
      ...['512,768,16,4', '2048,768,32,4', '2048,4096,16,4', '2048,4096,64,4', '1,4096,16,4', '64,4096,16,4'],
      ...['512,1024,128,4', '512,3072,896,2', '512,3072,448,2', '1,4096,896,2', '65,4096,64,4'],
    ]

/** @type {(text: string) => { tokens: number, d: number, rank: number, experts: number }} */
function shapeOf(text) {
  const [tokens, d, rank, experts] = text.split(',').map(Number)
  return { tokens, d, rank, experts }
}

const profiled = [
  ...shapes.map((shape) => ({ shape: shapeOf(shape), dtype: 'bfloat16', method: 'batch' })),
  ...shapes.slice(0, 5).map((shape) => ({ shape: shapeOf(shape), dtype: 'bfloat16', method: 'lora' })),
  { shape: shapeOf(shapes[0]), dtype: 'bfloat16', method: 'token' },
  { shape: shapeOf(shapes[0]), dtype: 'mixed', method: 'batch' },
]

/** Calls for compute-sanitizer: every routing granularity and kind of kernel, with sizes that no tile divides. */
const sanitized = [
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 130, d: 264, rank: 16, experts: 4 }, dtype: 'float16', method: 'token' },
  { shape: { tokens: 65, d: 136, rank: 33, experts: 3 }, dtype: 'mixed', method: 'sequence' },
  { shape: { tokens: 65, d: 136, rank: 140, experts: 2 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 1, d: 264, rank: 16, experts: 4 }, dtype: 'bfloat16', method: 'batch' },
  { shape: { tokens: 65, d: 136, rank: 20, experts: 2 }, dtype: 'float32', method: 'lora' },
]

/** Where PyTorch's packages and the CUDA toolkit may have cuBLASLt. @type {() => string[]} */
function libraryFolders() {
  const ask = `import glob, os, torch
print(*glob.glob(os.path.join(os.path.dirname(os.path.dirname(torch.__file__)), 'nvidia', '*', 'lib')), sep='\\n')`
  const program = python()
  const ofPython = program === undefined ? [] : (outputOf(program, ['-c', ask]) ?? '').split('\n').filter(Boolean)
  const nvcc = outputOf('which', ['nvcc'])
  return [...ofPython, ...(nvcc === null ? [] : [join(dirname(dirname(nvcc)), 'lib64')])]
}

/** @type {(tool: string) => string | null} */
function whyNot(tool) {
  return isEmulated || outputOf(tool) !== null ? null : `${tool} was not found`
}

/** So that no result is taken for one of another build or GPU. */
const measured = join(out, `${library}-${gpuName.replace(/\W+/g, '-')}`)
const files = {
  bench: join(measured, 'bench.json'),
  pytorch: join(measured, 'pytorch.json'),
  launches: join(measured, 'launches.json'),
}
const testResults = join(root, 'build', 'test-results.json')

/** @type {(name: string, limit: number, files: string[]) => Part} */
const testsOf = (name, limit, names) => ({
  name,
  limit,
  command: () => [...vitest, ...names],
  env: () => (isEmulated ? {} : { LILY_TEST_GPU: '1' }),
  file: testResults,
  find: (/** @type {{ numPassedTests: number, numFailedTests: number }} */ { numPassedTests, numFailedTests }) => [
    numPassedTests,
    `${numPassedTests} passed, ${numFailedTests} failed`,
  ],
})

/** What racecheck does not see. */
const remarks = { memcheck: '', racecheck: 'knows little of wgmma and its copies', synccheck: '' }

/** @type {(tool: keyof typeof remarks, limit: number) => Part} */
const sanitizer = (tool, limit) => ({
  name: tool,
  limit,
  remark: remarks[tool],
  why: () => whyNot('compute-sanitizer'),
  command: () => [
    // The emulator performs its own checks.
    ...(isEmulated ? emulated : ['compute-sanitizer', '--tool', tool, '--error-exitcode', '9']),
    ...tsx,
    'bench/counters/counted-call.ts',
    'forward+backward',
    ...sanitized.map((job) => JSON.stringify(job)),
  ],
  // The self-test of the process is a part of its own.
  env: () => ({ LILY_SELF_TEST: '0' }),
})

/**
 * `limit`: time limit on a GPU in seconds; the sum of a step is below ten minutes, to which the instrumentation of a library as
 * large as this adds most for memcheck. `file`: output of the part. `find`: number of results in the output, and a summary.
 * `says`: what the part prints if it has passed. `reads`: parts whose results it reads.
 *
 * @typedef {{ name: string, limit: number, why?: () => string | null, remark?: string, command: () => string[], env?: () => NodeJS.ProcessEnv, file?: string, says?: RegExp, reads?: string[], find?: (written: any) => readonly [number, string] }} Part
 * @type {Readonly<Record<string, readonly Part[]>>}
 */
const steps = {
  check: [
    {
      name: 'self-test',
      limit: 20,
      command: () => [...emulated, ...tsx, 'cli/main.ts', 'doctor'],
      says: /^cuda +self-test passed/m,
    },
    testsOf('kernels', 100, isEmulated ? ['test/operations/golden.test.ts'] : ['test/cuda/kernels.test.ts']),
    {
      name: 'instructions',
      limit: 30,
      // Without a toolkit, those that the pack has: the programs, and the emulator's results.
      command: () => ['sh', 'scripts/compare-emulator.sh', isEmulated ? '--emulated-twice' : '--prepared'],
    },
    testsOf('suite', 200, isEmulated ? ['test/operations/golden.test.ts'] : []),
    sanitizer('memcheck', 120),
    sanitizer('synccheck', 55),
    sanitizer('racecheck', 55),
  ],
  bench: [
    {
      name: 'times',
      limit: 330,
      command: () => [
        ...[...emulated, ...tsx, 'cli/main.ts', 'bench', '--backend', 'cuda', '--json', files.bench],
        ...['--dtype', 'bfloat16,mixed', '--seconds', isEmulated ? '5' : '150'],
        ...shapes.flatMap((shape) => ['--shape', shape]),
      ],
      // For cuBLASLt, the roof.
      env: () => ({
        LD_LIBRARY_PATH: [process.env.LD_LIBRARY_PATH, ...libraryFolders()].filter(Boolean).join(delimiter),
      }),
      file: files.bench,
      find: (/** @type {{ results: unknown[], failures: { reason: string }[] }[]} */ [{ results, failures }]) => [
        failures.length > 0 ? 0 : results.length,
        [`${results.length} times`, ...failures.map(({ reason }) => reason)].join('; '),
      ],
    },
    {
      name: 'pytorch',
      limit: 200,
      why: () => (python() === undefined ? 'PyTorch was not found' : null),
      command: () => [
        ...[python() ?? '', 'bench/peers/pytorch.py', '--json', files.pytorch, '--seconds', '0.1'],
        ...['--limit', '170', '--dtype', 'bfloat16', '--dtype', 'mixed', '--device', isEmulated ? 'cpu' : 'cuda'],
        ...shapes,
      ],
      file: files.pytorch,
      find: (/** @type {{ milliseconds: unknown[], missing: unknown[] }} */ { milliseconds, missing }) => [
        milliseconds.length,
        `${milliseconds.length} figures, ${missing.length} not measured`,
      ],
    },
    {
      name: 'table',
      limit: 20,
      reads: ['times', 'pytorch'],
      command: () => [...tsx, 'bench/peers/gpu-table.ts', files.bench, files.pytorch],
    },
  ],
  launches: [
    {
      name: 'profile',
      limit: 480,
      why: () => (isEmulated ? 'the emulator has no times of launches' : whyNot('ncu')),
      command: () => [
        ...tsx,
        'bench/counters/launches.ts',
        'profile',
        measured,
        ...profiled.map((job) => JSON.stringify(job)),
      ],
    },
    {
      name: 'predictions',
      limit: 60,
      reads: ['times', 'profile'],
      command: () => [...tsx, 'bench/counters/launches.ts', 'report', measured, gpuName],
      file: files.launches,
      find: (/** @type {{ rows: unknown[], calls: unknown[] }} */ { rows, calls }) => [
        rows.length + calls.length,
        `${rows.length} launches, ${calls.length} whole calls`,
      ],
    },
  ],
}

if (options.list) {
  for (const [step, parts] of Object.entries(steps))
    for (const { name, limit } of parts) console.log(`${step} ${name} ${limit}`)
  process.exit()
}
if (gpu === null && !isEmulated) {
  console.error('gpu-verify: nvidia-smi was not found, so there is no GPU; --emulated tests the script without one')
  process.exit(2)
}
const only = options.only?.split(',')
const names = Object.entries(steps).flatMap(([step, parts]) => [step, ...parts.map(({ name }) => name)])
const unknown = only?.find((name) => !names.includes(name))
if (unknown !== undefined) {
  console.error(`gpu-verify: --only: unknown step ${unknown}; expected ${names.join(', ')}`)
  process.exit(2)
}
mkdirSync(measured, { recursive: true })

/** Undefined if there is no such file, or if a part was stopped while it wrote it. @type {(file: string) => unknown} */
function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** Runs a command in a copy of its output to `log`; returns its exit code. @type {(command: string[], env: NodeJS.ProcessEnv, log: string) => Promise<number | string>} */
function runInto([program, ...args], env, log) {
  const copy = createWriteStream(log)
  return new Promise((ended) => {
    const child = spawn(program, args, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    })
    for (const [from, to] of /** @type {const} */ ([
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ])) {
      from.pipe(to, { end: false })
      from.pipe(copy, { end: false })
    }
    const end = (/** @type {number | string} */ code) => copy.end(() => ended(code))
    child.on('error', (error) => end(error.message))
    child.on('close', (code, signal) => end(code ?? signal ?? ''))
  })
}

/** @type {(part: Part, limit: number) => Promise<Outcome>} */
async function run({ name, why, remark, command, env, file, says, find }, limit) {
  const reason = why?.()
  if (reason) return { status: 'skipped', seconds: 0, detail: reason, library, gpu: gpuName }
  if (file !== undefined) rmSync(file, { force: true })
  const begin = performance.now()
  // `timeout` also ends the processes that a part has started.
  const limited = ['timeout', '--kill-after=5', String(limit), ...command()]
  const code = await runInto(limited, env?.() ?? {}, join(out, `${name}.log`))
  const seconds = Math.round((performance.now() - begin) / 100) / 10
  const written = file === undefined ? undefined : readJson(file)
  const [found, text] =
    written === undefined ? [0, `${file ?? ''} was not written, or not to its end`] : (find?.(written) ?? [0, ''])
  const texts = [...(remark ? [remark] : []), ...(file === undefined ? [] : [text])]
  if (code === 124 || code === 137) texts.push(`stopped after ${limit} s`)
  else if (code !== 0) texts.push(`exited with ${code}`)
  const isSaid = says === undefined || says.test(readFileSync(join(out, `${name}.log`), 'utf8'))
  if (!isSaid) texts.push(`did not print ${String(says)}`)
  const isGood = code === 0 && isSaid && (file === undefined || found > 0)
  return { status: isGood ? 'passed' : 'failed', seconds, detail: texts.join('; '), library, gpu: gpuName }
}

const machine = {
  gpu: isEmulated ? 'emulated' : gpu,
  node: process.version,
  cores: availableParallelism(),
}
const summaryFile = join(out, 'summary.json')
const known = /** @type {{ parts?: Record<string, Outcome> } | undefined} */ (readJson(summaryFile))
const outcomes = new Map(Object.entries(known?.parts ?? {}))
/** @type {(outcome: Outcome) => boolean} */
const isOfThis = (outcome) => outcome.library === library && outcome.gpu === gpuName
for (const [step, parts] of Object.entries(steps)) {
  // The emulator gets ten times the limit.
  let deadline = performance.now()
  for (const part of parts) {
    const { name, limit } = part
    if (only !== undefined && !only.includes(step) && !only.includes(name)) continue
    const before = outcomes.get(name)
    if (!only?.includes(name) && before?.status === 'passed' && isOfThis(before)) {
      console.log(`\n::: ${name}: passed before`)
      continue
    }
    console.log(`\n::: ${name}`)
    deadline = Math.max(deadline, performance.now()) + limit * 1000 * (isEmulated ? 10 : 1)
    const outcome = await run(part, Math.max(1, Math.ceil((deadline - performance.now()) / 1000)))
    outcomes.set(name, outcome)
    if (outcome.status !== 'skipped') {
      for (const { name: other, reads } of Object.values(steps).flat())
        if (reads?.includes(name)) outcomes.delete(other)
    }
    // Whole at any time, in case the machine is lost.
    const text = JSON.stringify({ machine, parts: Object.fromEntries(outcomes) }, null, 2)
    writeFileSync(`${summaryFile}.new`, `${text}\n`)
    renameSync(`${summaryFile}.new`, summaryFile)
  }
}

console.log(`\n${machine.gpu}, Node ${machine.node}, library ${library}`)
for (const [name, outcome] of outcomes) {
  const { status, seconds, detail } = outcome
  const origin = isOfThis(outcome) ? '' : ` (${outcome.gpu}, library ${outcome.library})`
  console.log(`${name.padEnd(12)} ${status.padEnd(8)} ${`${seconds.toFixed(1)} s`.padStart(8)}  ${detail}${origin}`)
}
console.log(`results: ${out}, times: ${measured}`)
process.exitCode = [...outcomes.values()].some(({ status }) => status === 'failed') ? 1 : 0
