/**
 * The async functions with an adapter for each row: bit-equal results, and memory that is taken away meanwhile.
 *
 * @project cpu wasm unshared @asan @tsan
 */
import { describe, expect, it } from 'vitest'
import * as lily from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'

const [tokens, dIn, dOut, experts] = [21, 24, 40, 2]
const rankOffsets = [0, 3, 8, 9]
const rank = 9
const adapterOf = Int32Array.from({ length: tokens }, (_, t) => ((t * 5) % 4) - 1)
const scale = Float32Array.from({ length: tokens }, (_, t) => 1 + t / 8)

const random = randomFrom(3)
const matrix = (rows: number, columns: number) => ({ data: gaussian(random, rows * columns), shape: [rows, columns] })
const of = {
  x: matrix(tokens, dIn),
  dy: matrix(tokens, dOut),
  a: matrix(rank, dIn),
  router: matrix(experts, rank),
  stack: matrix(experts * rank, dOut),
  b: matrix(dOut, rank),
  ofY: gaussian(random, tokens * dOut),
  ofDa: gaussian(random, rank * dIn),
}
/** Outputs that the caller gives, which the calls add to. */
const outputs = () => ({
  y: { data: of.ofY.slice(), shape: [tokens, dOut] },
  da: { data: of.ofDa.slice(), shape: [rank, dIn] },
})

const KINDS = {
  lily: {
    operands: { x: of.x, a: of.a, router: of.router, b: of.stack },
    options: { routing: 'token', rankOffsets, adapterOf, scale },
    forward: lily.lilyForward,
    forwardAsync: lily.lilyForwardAsync,
    backward: lily.lilyBackward,
    backwardAsync: lily.lilyBackwardAsync,
  },
  lora: {
    operands: { x: of.x, a: of.a, b: of.b },
    options: { rankOffsets, adapterOf, scale },
    forward: lily.loraForward,
    forwardAsync: lily.loraForwardAsync,
    backward: lily.loraBackward,
    backwardAsync: lily.loraBackwardAsync,
  },
} as const

type Call = (...args: unknown[]) => Promise<Record<string, lily.Tensor> & { y: lily.Tensor; saved: never }>

describe.each(['lily', 'lora'] as const)('%s', (kind) => {
  const { operands, options, ...calls } = KINDS[kind]
  const { forward, forwardAsync, backward, backwardAsync } = calls as unknown as Record<string, Call>

  async function results(run: Call, runBackward: Call): Promise<Record<string, lily.Tensor>> {
    const { y, da } = outputs()
    const { y: added, saved } = await run({ ...operands, y }, options)
    const gradients = await runBackward({ dy: of.dy, da }, saved)
    return { ...gradients, y: added }
  }

  it('the results are bit-equal to those of the sync functions', async () => {
    const expected = await results(forward, backward)
    for (const result of await Promise.all([1, 2, 3].map(() => results(forwardAsync, backwardAsync)))) {
      expect(Object.keys(result).sort()).toEqual(Object.keys(expected).sort())
      for (const name of Object.keys(expected)) {
        expectSameBits(name, result[name].data, expected[name].data)
      }
    }
  })

  it('operands that change meanwhile, and an output that is transferred', async () => {
    const expected = await results(forward, backward)
    const changing = { ...operands, x: { ...of.x, data: of.x.data.slice() }, y: outputs().y }
    const assigned = { ...options, adapterOf: adapterOf.slice(), scale: scale.slice() }
    const pending = forwardAsync(changing, assigned)
    changing.x.data.fill(NaN)
    assigned.adapterOf.fill(-1)
    assigned.scale.fill(NaN)
    expectSameBits('y', (await pending).y.data, expected.y.data)

    const { y } = outputs()
    const lost = forwardAsync({ ...operands, y }, options)
    structuredClone(null, { transfer: [y.data.buffer] })
    await expect(lost).rejects.toMatchObject({ code: 'ERR_LILY_ARGUMENT', argument: 'y' })
  })

  it('saved values that a caller changes meanwhile', async () => {
    const expected = await results(forward, backward)
    const { saved } = forward({ ...operands, y: outputs().y }, options) as unknown as { saved: lily.RowsSaved }
    const pending = backwardAsync({ dy: of.dy, da: outputs().da }, saved)
    ;(saved.adapters[1].hidden.data as Float32Array).fill(NaN)
    const { db } = await pending
    expectSameBits('db', db.data, expected.db.data)
  })
})
