/**
 * The async functions: bit-equal results, computation off the main thread, concurrent calls, rejections.
 *
 * @project cpu wasm unshared webgpu cuda @asan @tsan
 */
import { describe, expect, it, vi } from 'vitest'
import { native } from '../../lib/binding/native.js'
import * as lily from '../../lib/index.js'
import { LilyError } from '../../lib/index.js'
import {
  backend,
  isEmulated,
  isWebGpu,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
} from '../support/backend.js'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { gc } from '../support/collect.js'
import { expectSameBits } from '../support/compare.js'
import { numbers, smallOperands } from '../support/small.js'

/** Enough work for several turns of the event loop; slow devices need less. */
const [long, medium] =
  isEmulated || isWebGpu
    ? [
        { tokens: 64, dIn: 64, dOut: 64, rank: 16 },
        { tokens: 33, dIn: 64, dOut: 64, rank: 16 },
      ]
    : [
        { tokens: 512, dIn: 1024, dOut: 1024, rank: 512 },
        { tokens: 512, dIn: 512, dOut: 512, rank: 512 },
      ]

const routings = ['batch', 'sequence', 'token', 'uniform', 'fixed', 'lora'] as const

describe('async results are bit-equal to sync results', () => {
  for (const routing of routings) {
    it(routing, async () => {
      const problem = problemOf(routing, { tokens: 33, dIn: 17, dOut: 40, rank: 7, experts: 3, seed: 1 })
      expectSame(await callAsync(problem), await call(problem))
    })
  }
})

describe('concurrent calls', () => {
  it('64 concurrent calls give correct results', async () => {
    const problems = Array.from({ length: 64 }, (_, seed) => {
      const routing = routings[seed % routings.length]
      const sizes = { tokens: 1 + seed, dIn: 16 + seed, dOut: 80 - seed, rank: 1 + (seed % 9), experts: 1 + (seed % 4) }
      return problemOf(routing, { ...sizes, seed })
    })
    const results = await Promise.all(problems.map(callAsync))
    for (const [i, result] of results.entries()) expectSame(result, await call(problems[i]))
  })

  it('sync calls work while async calls are pending', async () => {
    const problem = makeCase({ routing: 'batch', tokens: 65, dIn: 96, dOut: 113, rank: 16, experts: 4, seed: 1 })
    const pending = Array.from({ length: 8 }, () => callAsync(problem))
    const expected = await call(problem)
    for (const result of await Promise.all(pending)) expectSame(result, expected)
  })
})

// The addon computes on the cpu backend. A later call may end first if it computes less, or by chance.
if (backend === 'cpu')
  describe('gradients that concurrent calls defer', () => {
    const { x, a, router, b } = operands(makeCase({ routing: 'batch', ...medium, experts: 4, seed: 1 }))
    const { saved } = lily.lilyForward({ x, a, router, b })
    const dys = [2, 3, 4].map((seed) => makeCase({ routing: 'batch', ...medium, experts: 4, seed }).dy)
    const dyOf = (i: number) => ({ data: Float32Array.from(dys[i]), shape: [medium.tokens, medium.dOut] })
    const foldAfter = (order: number[]) => {
      for (const i of order) lily.lilyBackward({ dy: dyOf(i) }, saved, { deferB: true, retain: true })
      return lily.foldB(saved).data
    }

    it('of few numbers reach the fold', async () => {
      const few = makeCase({ routing: 'batch', tokens: 5, dIn: 7, dOut: 8, rank: 4, experts: 2, seed: 1 })
      const { x, a, router, b } = operands(few)
      const { saved } = lily.lilyForward({ x, a, router, b })
      const dy = { data: Float32Array.from(few.dy), shape: [5, 8] }
      lily.lilyBackward({ dy }, saved, { deferB: true, retain: true })
      const expected = lily.foldB(saved).data
      await lily.lilyBackwardAsync({ dy }, saved, { deferB: true })
      expectSameBits('db', lily.foldB(saved).data, expected)
    })

    it('are added in the order of the calls, whichever ends first', async () => {
      const expected = foldAfter([0, 1, 2])
      expect(foldAfter([2, 1, 0]), 'the sum depends on the order').not.toEqual(expected)

      const ended: number[] = []
      const run = native.runAsync.bind(native)
      const ends: Promise<void>[] = []
      // Each call ends after the next one.
      const held = vi.spyOn(native, 'runAsync').mockImplementation((...call) => {
        const [i, done] = [ends.length, run(...call)]
        const end = (async () => {
          await new Promise(setImmediate)
          await done
          await ends[i + 1]
          await new Promise(setImmediate)
        })()
        ends.push(end)
        return end
      })
      try {
        const calls = dys.map(async (_, i) => {
          await lily.lilyBackwardAsync({ dy: dyOf(i) }, saved, { deferB: true, retain: true })
          ended.push(i)
        })
        await Promise.all(calls)
      } finally {
        held.mockRestore()
      }
      expect(ended).toEqual([2, 1, 0])
      expectSameBits('db', lily.foldB(saved).data, expected)
    })
  })

describe('the event loop', () => {
  if (backend === 'cpu') {
    const shared = (data: Float32Array) => {
      const copy = new Float32Array(new SharedArrayBuffer(data.byteLength))
      copy.set(data)
      return copy
    }
    it.each([
      ['small operands', 32, 8, false, 1],
      ['large ones, which would take longer to copy', 512, 511, false, native.copiesOperands ? 1 : 0],
      ['large ones that compute for longer', 512, 512, false, 1],
      ['large ones in shared memory', 512, 40, true, 1],
    ])('calls of %s', async (_, d, rank, isShared, onThread) => {
      const c = makeCase({ routing: 'uniform', tokens: 512, dIn: d, dOut: d, rank, experts: 2, seed: 1 })
      const memory = (data: Float32Array) => (isShared ? shared(data) : data.slice())
      const x = { data: memory(c.x), shape: [512, d] }
      const a = { data: memory(c.a), shape: [rank, d] }
      const b = { data: memory(c.b), shape: [2 * rank, d] }
      const y = { data: memory(new Float32Array(512 * d)), shape: [512, d] }
      const expected = lily.lilyForward({ x, a, b }, { routing: 'uniform' }).y.data
      const runAsync = vi.spyOn(native, 'runAsync')
      const pending = lilyForwardAsync({ x, a, b, y }, { routing: 'uniform' })
      expect(runAsync).toHaveBeenCalledTimes(onThread)
      runAsync.mockRestore()
      await pending
      expectSameBits('y', y.data, expected)
    })
  }

  it('runs while a call is pending', async () => {
    // Calls that block would finish before the first turn of the loop. These calls last for many turns, even if other
    // processes use most of the processor.
    const { x, a, router, b } = operands(makeCase({ routing: 'batch', ...long, experts: 4, seed: 1 }))
    let pending = true
    const calls = Array.from({ length: 16 }, () => lilyForwardAsync({ x, a, router, b }))
    const done = Promise.all(calls).finally(() => (pending = false))
    let turns = 0
    while (pending) {
      await new Promise(setImmediate)
      turns++
    }
    await done
    expect(turns).toBeGreaterThan(3)
  })

  it('a pending call keeps its operands alive', async () => {
    const spec = { routing: 'batch', ...medium, experts: 4, seed: 1 } as const
    const pending = Array.from({ length: 4 }, () => callAsync(makeCase(spec)))
    for (let i = 0; i < 5; i++) {
      gc()
      // These allocations would reuse and overwrite memory that was freed too early.
      Array.from({ length: 8 }, () => new Float32Array(256 * 512).fill(NaN))
      await new Promise(setImmediate)
    }
    const expected = await call(makeCase(spec))
    for (const result of await Promise.all(pending)) expectSame(result, expected)
  })
})

describe('an invalid call rejects and does not throw', () => {
  it('forward', async () => {
    const { dy: _, router: __, ...operands } = smallOperands()
    const promise = lilyForwardAsync(operands)
    await expect(promise).rejects.toBeInstanceOf(LilyError)
    await expect(promise).rejects.toMatchObject({ code: 'ERR_LILY_ARGUMENT', message: /router/ })
    await expect(loraForwardAsync({} as never)).rejects.toMatchObject({ code: 'ERR_LILY_ARGUMENT' })
  })

  it('backward', async () => {
    const { dy, ...operands } = smallOperands()
    const { saved } = await lilyForwardAsync(operands)
    const wrong = { ...dy, shape: [1, dy.data.length] }
    await expect(lilyBackwardAsync({ dy: wrong }, saved)).rejects.toMatchObject({ code: 'ERR_LILY_SHAPE' })
    const [first, second] = [1, 2].map(() => lilyBackwardAsync({ dy }, saved))
    await expect(second).rejects.toMatchObject({ code: 'ERR_LILY_ARGUMENT', message: /saved: expected one that no/ })
    await first
    saved.dispose()
    await expect(lilyBackwardAsync({ dy }, saved)).rejects.toMatchObject({ code: 'ERR_LILY_DISPOSED' })
    await expect(loraBackwardAsync({ dy }, undefined as never)).rejects.toBeInstanceOf(LilyError)
  })
})

function problemOf(routing: Spec['routing'], sizes: Omit<Spec, 'routing'>): Case {
  const grouped = routing === 'sequence' || routing === 'fixed'
  const lengths = grouped ? [0, sizes.tokens - 1, 1] : undefined
  return makeCase({ ...sizes, routing, lengths, experts: routing === 'lora' ? 1 : sizes.experts })
}

function operands(c: Case) {
  const { tokens, dIn, dOut, rank, experts } = c
  return {
    x: { data: c.x, shape: [tokens, dIn] },
    a: { data: c.a, shape: [rank, dIn] },
    router: c.router && { data: c.router, shape: [experts, rank] },
    b: { data: c.b, shape: c.routing === 'lora' ? [dOut, rank] : [experts * rank, dOut] },
    dy: { data: c.dy, shape: [tokens, dOut] },
  }
}

function options(c: Case) {
  const { experts, weights } = c
  return {
    sequenceOffsets: c.offsets,
    weights: weights && {
      data: weights,
      shape: weights.length === experts ? [experts] : [weights.length / experts, experts],
    },
  }
}

async function call(c: Case) {
  const { dy, router, ...inputs } = operands(c)
  if (c.routing === 'lora') {
    const { y, saved } = await loraForward(inputs)
    return { y, ...(await loraBackward({ dy }, saved)) }
  }
  const { y, saved } = await lilyForward({ ...inputs, router }, { routing: c.routing, ...options(c) })
  return { y, ...(await lilyBackward({ dy }, saved)) }
}

async function callAsync(c: Case): Promise<Awaited<ReturnType<typeof call>>> {
  const { dy, router, ...inputs } = operands(c)
  if (c.routing === 'lora') {
    const { y, saved } = await loraForwardAsync(inputs)
    return { y, ...(await loraBackwardAsync({ dy }, saved)) }
  }
  const { y, saved } = await lilyForwardAsync({ ...inputs, router }, { routing: c.routing, ...options(c) })
  return { y, ...(await lilyBackwardAsync({ dy }, saved)) }
}

function expectSame(actual: Awaited<ReturnType<typeof call>>, expected: Awaited<ReturnType<typeof call>>): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected))
  for (const [name, value] of Object.entries(expected)) {
    if (value !== undefined) expectSameBits(name, numbers(actual[name as 'y']), value.data)
  }
}
