/**
 * Frozen linear layers by cuBLASLt: when it is chosen, what it is asked for, and what happens if it is missing or fails. The
 * emulator has no cuBLASLt: test/cuda/programs/cublaslt.c stands for it.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, test } from 'vitest'
import { type Gpu, type GpuName, gpus } from '../../bench/counters/gpus.js'
import { linear } from '../support/reference.js'
import { isEmulated } from '../support/backend.js'
import { relativeError } from '../support/compare.js'
import { compileProgram } from '../support/compile.js'
import { cublasLt } from '../support/cublaslt.js'
import { ask } from '../support/fork.js'
import type { GraphJob, GraphReport } from '../support/linear-graph.js'
import { expectMatches } from '../support/linear-check.js'
import { type LinearJob, type LinearReport, makeLinear } from '../support/linear.js'
import { temporaryFolder } from '../support/temporary.js'

const support = (name: string): string => fileURLToPath(new URL(`../support/${name}.ts`, import.meta.url))

/** A device of one multiprocessor without wgmma, on which the matrix units limit a product of this size. */
const DEVICE = { LILY_EMULATOR_ARCH: '100', LILY_EMULATOR_SMS: '1', LILY_EMULATOR_FAST: '1' }
const SIZES = { tokens: 136, dIn: 152, dOut: 144 }

type Line = { readonly call: string } & Readonly<Record<string, unknown>>

interface Run<Report> {
  readonly report: Report
  /** What cuBLASLt was asked for. */
  readonly lines: readonly Line[]
}

let logs = 0

/** Runs jobs in a process with the libraries of a folder. */
async function runWith<Report>(
  folder: string,
  message: object,
  env: Record<string, string> = {},
  file = 'linear',
): Promise<Run<Report>> {
  const log = join(temporaryFolder(), `log-${logs++}`)
  const report = await ask<Report>(support(file), message, {
    ...DEVICE,
    LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter),
    LILY_TEST_CUBLASLT_LOG: log,
    ...env,
  })
  const text = existsSync(log) ? readFileSync(log, 'utf8').trim() : ''
  return { report, lines: text === '' ? [] : text.split('\n').map((line) => JSON.parse(line) as Line) }
}

const products = (lines: readonly Line[]): Line[] => lines.filter(({ call }) => call === 'multiply')

/** The relative error of products of TF32, which has 11 bits: each factor is off by 2^-12 on average, in either direction. */
const TF32_ERROR = 2 ** -11

function expectRight(jobs: readonly LinearJob[], { results }: LinearReport): void {
  expect(results.length).toBe(jobs.length)
  jobs.forEach((job, i) => {
    if (job.spec.precision !== 'tf32') {
      expectMatches(job, results[i])
      return
    }
    const expected = linear({ ...makeLinear(job.spec), precision: 'default' })
    for (const name of ['y', 'dx'] as const) {
      const error = relativeError(results[i][name], expected[name].value)
      expect(error, name).toBeLessThan(TF32_ERROR)
      expect(error, name).toBeGreaterThan(TF32_ERROR / 100)
    }
  })
}

/** Names of CUDA's data types. */
const TYPES = { 0: 'float32', 2: 'float16', 14: 'bfloat16' } as const

describe('products', () => {
  let folder: string
  beforeAll(() => {
    if (isEmulated) folder = cublasLt()
  })

  const bfloat16: LinearJob = {
    spec: { ...SIZES, activations: 'bfloat16', bias: true, seed: 1 },
    how: { outputs: 'add' },
  }
  const jobs: LinearJob[] = [
    bfloat16,
    { spec: { ...SIZES, activations: 'float16', bias: true, seed: 2 }, how: { outputs: 'overwrite', isAsync: true } },
    { spec: { ...SIZES, activations: 'float32', precision: 'tf32', seed: 3 }, how: { outputs: 'new', packed: true } },
    {
      spec: { ...SIZES, activations: 'bfloat16', seed: 4 },
      how: {
        outputs: 'add',
        leading: [4, 34],
        layout: Object.fromEntries(
          ['x', 'weight', 'dy', 'y', 'dx'].map((name, i) => [name, { gap: 8 * (i + 1), margin: 16 }]),
        ),
      },
    },
  ]

  it('are those of the layer, in both directions', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const calls = [...jobs, bfloat16]
    const { report, lines } = await runWith<LinearReport>(folder, calls)
    expectRight(calls, report)
    const { tokens, dIn, dOut } = SIZES
    const expected = calls.flatMap(({ spec: { activations = 'float32', bias, precision }, how }, i) => {
      const gap = (name: string): number => (how.layout?.[name as 'x'] ?? { gap: 0 }).gap
      const both = {
        call: 'multiply',
        type: activations,
        computeType: precision === 'tf32' ? 77 : 68,
        columns: tokens,
        beta: how.outputs === 'add' ? 1 : 0,
      }
      const hasBias = bias === true
      return [
        {
          ...both,
          transposesA: true,
          rows: dOut,
          depth: dIn,
          epilogue: hasBias ? 4 : 1,
          hasBias,
          pitches: [dIn + gap('weight'), dIn + gap('x'), dOut + gap('y')],
        },
        {
          ...both,
          transposesA: false,
          rows: dIn,
          depth: dOut,
          epilogue: 1,
          hasBias: false,
          pitches: [dIn + gap('weight'), dOut + gap('dy'), dIn + gap('dx')],
        },
      ].map((line) => ({ ...line, job: i }))
    })
    const named = products(lines).map((line, i) => ({
      ...line,
      type: TYPES[line.type as keyof typeof TYPES],
      job: Math.floor(i / 2),
    }))
    expect(named).toEqual(expected)
    // One handle; no split of the sum, and no alignment but that of 16 bytes.
    expect(lines.filter(({ call }) => call === 'create')).toEqual([{ call: 'create', device: 0 }])
    for (const line of lines.filter(({ call }) => call === 'choose'))
      expect(line).toEqual({
        call: 'choose',
        workspaceBytes: 32 << 20,
        reductionSchemes: 0,
        alignment: [16, 16, 16, 16],
      })
    // The last call repeats the first: it asks for no algorithm.
    expect(lines.filter(({ call }) => call === 'choose')).toHaveLength(2 * jobs.length)
  })

  it('are captured in graphs, with a workspace of the graph', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const job: GraphJob = { ...SIZES, replays: 3 }
    const { report, lines } = await runWith<GraphReport>(folder, job, {}, 'linear-graph')
    // One call outside, and one that is captured: replays do not call the library.
    expect(products(lines)).toHaveLength(2)
    expect(report.first.length).toBe(SIZES.tokens * SIZES.dOut)
    for (const replay of report.replays) expect(replay).toEqual(report.first)
  })

  it('of operands that do not begin at multiples of 16 bytes are those of the kernel', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const unaligned: LinearJob[] = [
      { spec: { ...SIZES, dIn: 153, activations: 'bfloat16', seed: 5 }, how: {} },
      { spec: bfloat16.spec, how: { layout: { bias: { gap: 0, margin: 1 }, dy: { gap: 4, margin: 0 } } } },
    ]
    const { report, lines } = await runWith<LinearReport>(folder, unaligned)
    expectRight(unaligned, report)
    expect(lines).toEqual([])
  })

  it.for<[string, Record<string, string>, number]>([
    ['LILY_CUBLASLT is 0', { LILY_CUBLASLT: '0' }, 0],
    ['the library cannot be used', { LILY_TEST_CUBLASLT_FAULT: 'create' }, 0],
    ['it has no algorithm', { LILY_TEST_CUBLASLT_FAULT: 'none' }, 0],
    ['it does not support the product', { LILY_TEST_CUBLASLT_FAULT: '15' }, 2],
  ])('are those of the kernel if %s', async ([, env, count], context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const { report, lines } = await runWith<LinearReport>(folder, [bfloat16], env)
    expectRight([bfloat16], report)
    expect(products(lines)).toHaveLength(count)
    if ('LILY_CUBLASLT' in env) expect(lines).toEqual([])
    else expect(lines[0].call).toBe('create')
  })

  it.for<[string, () => string]>([
    ['is missing', () => temporaryFolder()],
    ['lacks a function', () => cublasLt('-D', 'WITHOUT_HEURISTIC')],
  ])('are those of the kernel if the library %s', async ([, folderOf], context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const { report, lines } = await runWith<LinearReport>(folderOf(), [bfloat16])
    expectRight([bfloat16], report)
    expect(lines).toEqual([])
  })

  it('that fail on the device are errors, because something may have been enqueued', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, whose cuBLASLt the test must not replace')
    const job: GraphJob = { ...SIZES, replays: 0 }
    const { report } = await runWith<GraphReport>(folder, job, { LILY_TEST_CUBLASLT_FAULT: '13' }, 'linear-graph')
    expect(report.error).toMatch(/^ERR_LILY_CUDA: .*cuBLASLt: a product failed with status 13/)
  })
})

describe('the rule', () => {
  const DTYPES = { float32: 0, bfloat16: 1, float16: 2 }
  const PRECISIONS = { default: 0, high: 1, tf32: 2 }
  let program: string
  beforeAll(() => {
    const names = ['launch/cost', 'launch/plan_linear', 'launch/walk', 'tiles/rows']
    const sources = [...names.map((name) => `cuda/${name}.cc`), 'core/problem.cc']
    program = compileProgram('linear-plan', sources, temporaryFolder())
  })

  interface Call {
    gpu?: GpuName
    tokens?: number
    d?: number
    transposed?: boolean
    activations?: keyof typeof DTYPES
    parameters?: keyof typeof DTYPES
    precision?: keyof typeof PRECISIONS
  }

  function choose(call: Call): string {
    const { gpu = 'h100', tokens = 2048, d = 4096, activations = 'bfloat16', parameters = activations } = call
    const { transposed = false, precision = 'default' } = call
    const device: Gpu = gpus[gpu]
    const numbers = [
      device.capability,
      device.multiprocessors,
      device.l2Bytes,
      device.sharedBytesPerBlock,
      device.sharedBytesPerMultiprocessor,
      device.threadsPerMultiprocessor,
      device.clockHz,
      device.memoryBytesPerSecond,
      tokens,
      d,
      d,
      Number(transposed),
      PRECISIONS[precision],
      DTYPES[activations],
      DTYPES[parameters],
    ]
    return execFileSync(program, { input: numbers.join(' '), encoding: 'utf8' }).trim()
  }

  test.each<[string, Call]>([
    ['bfloat16 on an H100', {}],
    ['its backward', { transposed: true }],
    ['a B200', { gpu: 'b200' }],
    ['float16', { activations: 'float16' }],
    ['float32 with precision tf32', { activations: 'float32', precision: 'tf32' }],
    ['128 tokens', { tokens: 128 }],
  ])('chooses cuBLASLt for %s', (_, call) => {
    expect(choose(call)).toBe('cuBLASLt')
  })

  test.each<[string, Call]>([
    ['a T4', { gpu: 't4', activations: 'float16' }],
    ['an A100', { gpu: 'a100' }],
    ['an RTX 4090', { gpu: 'rtx4090' }],
    ['an RTX 5090', { gpu: 'rtx5090' }],
    ['few tokens', { tokens: 127 }],
    ['a product that takes no longer than its launch', { tokens: 256, d: 128 }],
    ['float32', { activations: 'float32' }],
    ['a weight of another type', { parameters: 'float32' }],
    ['precision high', { precision: 'high' }],
  ])('chooses the kernel for %s', (_, call) => {
    expect(choose(call)).toBe('kernel')
  })
})
