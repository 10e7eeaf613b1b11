/** The plan of a call: tasks for many threads, and what it costs. A C++ program prints it; nothing is computed. */
import { execFileSync } from 'node:child_process'
import { beforeAll, describe, expect, test } from 'vitest'
import { compilePlans } from '../support/compile.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let program: string
beforeAll(() => {
  program = compilePlans(folder)
})

interface Plan {
  threads: number
  forwardWorkspace: number
  backwardWorkspace: number
  /** Of each large pass. */
  tasks: Record<string, number>
  /** What determines the order of the sums. */
  sums: Record<string, number>
  partialBytes: Record<'hidden' | 'q' | 'd' | 'da', number>
}

const ROUTINGS = { batch: 0, sequence: 1, token: 2, uniform: 3, fixed: 4, lora: 5 }
const DTYPES = { float32: 0, bfloat16: 1, float16: 2 }

interface Problem {
  tokens: number
  groups?: number
  dIn: number
  dOut: number
  rank: number
  experts: number
  routing: keyof typeof ROUTINGS
  dtype: keyof typeof DTYPES
}

/** Lanes and columns per panel of AVX-512, AVX2, NEON and SSE. */
const VECTORS = ['16:64', '8:16', '4:16', '4:8']

/** The plans for 1 to 64 threads. Groups have equal lengths. */
function plansOf(kernels: string, { tokens, groups = 1, dIn, dOut, rank, experts, routing, dtype }: Problem): Plan[] {
  const numbers = [tokens, groups, dIn, dOut, rank, experts, ROUTINGS[routing], DTYPES[dtype]]
  const text = execFileSync(program, [kernels, ...numbers.map(String)], { encoding: 'utf8' })
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Plan)
}

const ranks = [4, 8, 16, 32, 64, 128]
const large = { tokens: 8192, dIn: 4096, dOut: 4096, experts: 4 }
const dtypes = ['float32', 'bfloat16', 'float16'] as const

/** Two tasks per thread, and at most 10 or 25 % more bytes than the activations have, in each direction. */
function expectManyTasks(kernels: string, problem: Problem): void {
  const plans = plansOf(kernels, problem)
  const activations = problem.tokens * problem.dIn * (problem.dtype === 'float32' ? 4 : 2)
  const share = problem.rank <= 32 ? 0.1 : 0.25
  expect(plans.map(({ threads }) => threads)).toEqual(Array.from({ length: 64 }, (_, i) => i + 1))
  const tooFew = plans.flatMap(({ threads, tasks }) =>
    Object.entries(tasks)
      .filter(([, count]) => count < 2 * threads)
      .map(([pass, count]) => `${pass} with ${threads} threads: ${count}`),
  )
  expect(tooFew, `rank ${problem.rank}`).toEqual([])
  for (const { threads, sums, partialBytes } of plans) {
    expect(sums).toEqual(plans[0].sums)
    // They are written once and read once.
    const extra = (name: keyof typeof partialBytes) => 2 * (partialBytes[name] - plans[0].partialBytes[name])
    const forward = extra('hidden') / (2 * activations)
    const backward = (extra('q') + extra('d') + extra('da')) / (3 * activations)
    expect(Math.max(forward, backward), `rank ${problem.rank}, ${threads} threads`).toBeLessThanOrEqual(share)
  }
}

describe.each(VECTORS)('lanes and panel %s', (kernels) => {
  for (const dtype of dtypes)
    for (const routing of ['batch', 'token', 'uniform', 'lora'] as const)
      test(`two tasks per thread: ${routing}, ${dtype}`, () => {
        for (const rank of ranks)
          expectManyTasks(kernels, { ...large, experts: routing === 'lora' ? 1 : 4, rank, routing, dtype })
      })

  // More and shorter sequences than these share fewer tasks: native/cpu/README.md, "Threads".
  test.each([
    ['float32', 16, 64],
    ['float32', 32, 32],
    ['float32', 128, 16],
    ['bfloat16', 16, 32],
    ['bfloat16', 32, 16],
    ['bfloat16', 128, 9],
  ] as const)('two tasks per thread with sequences: %s, rank %i, %i of them', (dtype, rank, groups) => {
    for (const routing of ['sequence', 'fixed'] as const)
      expectManyTasks(kernels, { ...large, groups, rank, routing, dtype })
  })

  test('many short sequences cost no more bytes', () => {
    for (const plan of plansOf(kernels, { ...large, groups: 512, rank: 32, routing: 'sequence', dtype: 'float32' }))
      expect(plan.partialBytes.d).toBe(0)
  })

  test('sums of y and dx are cut without regard to the batch', () => {
    const of = (tokens: number, groups: number) => {
      const [{ sums }] = plansOf(kernels, { ...large, tokens, groups, rank: 16, routing: 'sequence', dtype: 'float32' })
      return { shrink: sums.shrinkSplit, dy: sums.dySplit, piece: sums.firstPiece }
    }
    for (const length of [1, 200, 1500, 8192]) expect(of(8 * length, 8)).toEqual(of(length, 1))
  })

  test('up to 1023 tokens are one piece', () => {
    for (const rank of ranks) {
      const [{ sums }] = plansOf(kernels, { ...large, tokens: 1023, rank, routing: 'batch', dtype: 'float32' })
      expect([sums.dPieces, sums.daPieces]).toEqual([1, 1])
    }
  })
})
