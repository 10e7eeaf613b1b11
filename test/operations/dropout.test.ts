/**
 * Dropout: results and gradients against the reference, whose mask comes from another implementation of the random numbers;
 * the state and the draws that calls take of it.
 *
 * @project cpu amx wasm webgpu cuda @asan
 */
import { describe, expect, it, test } from 'vitest'
import * as lily from '../../lib/index.js'
import { dropoutState } from '../../lib/index.js'
import {
  backend,
  isEmulated,
  isWebGpu,
  lilyBackward,
  lilyForward,
  lilyForwardAsync,
  linearBackward,
  linearForward,
  loraBackward,
  loraForward,
} from '../support/backend.js'
import { makeCase, type Spec } from '../support/cases.js'
import { checkCase } from '../support/check.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { TYPES } from '../support/dtypes.js'
import { maskOf } from '../support/philox.js'
import { everyNth } from '../support/runs.js'
import { filled, numbers, sizes, smallLoraB, smallOperands } from '../support/small.js'
import { expectRefused } from '../refusals/refused.js'

const odd = { tokens: 37, dIn: 45, dOut: 40, rank: 7, experts: 3, dropout: 0.3 }
const specs: Spec[] = [
  { ...odd, routing: 'batch', masked: 0.3, seed: 1 },
  { ...odd, routing: 'batch', pool: 'logits', sharpness: 0.1, seed: 2 },
  { ...odd, routing: 'batch', activation: 'relu', dropout: 0.5, seed: 3 },
  { ...odd, routing: 'sequence', lengths: [20, 0, 17], seed: 4 },
  { ...odd, routing: 'token', dropout: 0.9, seed: 5 },
  { ...odd, routing: 'uniform', scaling: 1.5, seed: 6 },
  { ...odd, routing: 'fixed', lengths: [20, 0, 17], seed: 7 },
  { ...odd, routing: 'learned', seed: 8 },
  { ...odd, routing: 'lora', experts: 1, dropout: 0.1, seed: 9 },
  // Few tokens, no tokens, the greatest rate, and one word of random numbers beyond a row of x.
  { ...odd, routing: 'batch', tokens: 3, dIn: 96, seed: 10 },
  { ...odd, routing: 'batch', tokens: 0, seed: 11 },
  { ...odd, routing: 'lora', experts: 1, tokens: 1, dIn: 1000, dropout: 0.99999, seed: 12 },
  { ...odd, routing: 'batch', tokens: 130, dIn: 264, dOut: 136, rank: 16, seed: 13 },
]
const types = Object.entries(TYPES)

describe('results are those of the reference', () => {
  for (const [i, spec] of everyNth(isWebGpu || isEmulated ? 2 : 1, specs).entries()) {
    const [name, of] = types[i % types.length]
    test(`${spec.routing}, ${spec.tokens} tokens, ${name}`, async () => {
      const c = makeCase({ ...spec, ...of })
      await checkCase(c, { outputs: 'add', deferB: i % 3 === 1 && spec.routing !== 'lora' })
    })
  }

  if (backend === 'cuda')
    test('with a state in device memory', async () => {
      await checkCase(makeCase(specs[0]), { hasDeviceState: true })
    })
})

const { tokens, dIn } = sizes
const option = (seed = 5, position = 0) => ({ rate: 0.5, state: dropoutState(seed, position) })
const results = async (dropout: lily.DropoutOptions) => {
  const { dy, ...inputs } = smallOperands()
  const { y, saved } = await lilyForward(inputs, { dropout })
  return { y: numbers(y), dx: numbers((await lilyBackward({ dy }, saved)).dx) }
}

describe('the state', () => {
  it('has the words of seed and position', () => {
    expect([...dropoutState(2 ** 53 - 1, 2 ** 32)]).toEqual([-1, 2 ** 21 - 1, 0, 1])
    expect([...dropoutState(3)]).toEqual([3, 0, 0, 0])
  })

  it('gives each call the next position, past 32 bits', async () => {
    const state = dropoutState(5, 2 ** 32 - 1)
    const calls = [await results({ rate: 0.5, state }), await results({ rate: 0.5, state })]
    expect([...state]).toEqual([5, 0, 1, 1])
    for (const [i, { y, dx }] of calls.entries()) {
      const same = await results(option(5, 2 ** 32 - 1 + i))
      expectSameBits('y', y, same.y)
      expectSameBits('dx', dx, same.dx)
    }
    expect(calls[0].dx).not.toEqual(calls[1].dx)
  })

  it('does not depend on the form in which it is passed', async () => {
    const { state } = option()
    const data = Int32Array.of(9, ...state)
    const { y } = await results({ rate: 0.5, state: { data, shape: [4], byteOffset: 4 } })
    expectSameBits('y', y, (await results({ rate: 0.5, state })).y)
    expect([...data]).toEqual([9, ...state])
  })

  it('is drawn from when an async function is called', async () => {
    const { dy: _, ...inputs } = smallOperands()
    const dropout = option()
    const pending = [lilyForwardAsync(inputs, { dropout }), lilyForwardAsync(inputs, { dropout })]
    const expected = [await results(option(5, 0)), await results(option(5, 1))]
    for (const [i, { y }] of (await Promise.all(pending)).entries()) expectSameBits('y', numbers(y), expected[i].y)
    expect(dropout.state[2]).toBe(2)
  })

  if (backend === 'cpu') {
    it('is what it was after an async call that fails, unless another one has drawn since', async () => {
      const { dy: _, ...inputs } = smallOperands()
      const dropout = option(5, 2 ** 32 - 1)
      const failing = () => {
        const y = filled(0, sizes.tokens, sizes.dOut)
        const pending = lilyForwardAsync({ ...inputs, y }, { dropout })
        structuredClone(y.data.buffer, { transfer: [y.data.buffer as ArrayBuffer] })
        return pending
      }
      await expectRefused('ERR_LILY_ARGUMENT', 'y: its ArrayBuffer was transferred', failing)
      expect(dropout.state).toEqual(dropoutState(5, 2 ** 32 - 1))
      const pending = failing()
      const { y } = await lilyForward(inputs, { dropout })
      expectSameBits('y', numbers(y), (await results(option(5, 2 ** 32))).y)
      await expectRefused('ERR_LILY_ARGUMENT', 'y: its ArrayBuffer was transferred', () => pending)
      expect(dropout.state).toEqual(dropoutState(5, 2 ** 32 + 1))
    })
  }

  it('stays in calls that are refused, and in those that drop nothing', async () => {
    const { dy, ...inputs } = smallOperands()
    const dropout = option()
    await expectRefused('ERR_LILY_SHAPE', 'y', () => lilyForward({ ...inputs, y: filled(0, 1, 1) }, { dropout }))
    const nothing = { rate: 2 ** -18, state: dropout.state }
    const { y, saved } = await lilyForward(inputs, { dropout: nothing })
    expect(dropout.state).toEqual(dropoutState(5))
    const without = await lilyForward(inputs)
    expectSameBits('y', numbers(y), numbers(without.y))
    const [{ dx }, { dx: expected }] = [await lilyBackward({ dy }, saved), await lilyBackward({ dy }, without.saved)]
    expectSameBits('dx', numbers(dx), numbers(expected))
  })
})

it('backward has the mask of its forward, each time', async () => {
  const { dy, ...inputs } = smallOperands()
  const { saved } = await lilyForward(inputs, { dropout: option() })
  const first = await lilyBackward({ dy }, saved, { retain: true })
  const second = await lilyBackward({ dy }, saved)
  for (const name of ['dx', 'da', 'dRouter', 'db'] as const)
    expectSameBits(name, numbers(second[name]), numbers(first[name]))
})

it('a call without save drops, too', async () => {
  const { dy: _, ...inputs } = smallOperands()
  const { y } = await lilyForward(inputs, { dropout: option(), save: false })
  expectSameBits('y', numbers(y), (await results(option())).y)
})

it('dropped elements count as zero whatever they are, and their dx keeps its bits', async () => {
  const { x, a, dy } = smallOperands()
  const b = smallLoraB()
  const { state, rate } = option()
  const mask = maskOf(tokens, dIn, { rate, draw: state })
  const dropped = [...mask.keys()].filter((i) => mask[i] === 0)
  const bad = { ...x, data: x.data.map((value, i) => (mask[i] === 1 ? value : i % 2 === 0 ? NaN : Infinity)) }
  const dx = filled(-0, tokens, dIn)
  const call = async (of: typeof x) => loraForward({ x: of, a, b }, { dropout: option() })
  const [{ y, saved }, expected] = [await call(bad), await call(x)]
  expectSameBits('y', numbers(y), numbers(expected.y))
  const { da } = await loraBackward({ dy, dx }, saved)
  expect(numbers(da).every(Number.isFinite)).toBe(true)
  for (const i of dropped) expect(dx.data[i], `dx of element ${i}`).toBe(-0)
})

it('the frozen layer below the adapter sees all of x', async () => {
  const { x, a, router, b, dy } = smallOperands()
  const weight = filled(0.5, sizes.dOut, dIn)
  const together = await lilyForward({ x, weight, a, router, b }, { dropout: option() })
  const alone = await lilyForward({ x, a, router, b, y: (await linearForward({ x, weight })).y }, { dropout: option() })
  expectSameBits('y', numbers(together.y), numbers(alone.y))
  const { dx } = await lilyBackward({ dy }, together.saved)
  const below = (await linearBackward({ dy, weight })).dx
  expectSameBits('dx', numbers(dx), numbers((await lilyBackward({ dy, dx: below }, alone.saved)).dx))
})

// The bits of the mask show in dA of one token: da_ij = dh_i m_j x_j.
it('the rate is that of the mask', async () => {
  const [columns, rate] = [4096, 0.25]
  const x = filled(1, 1, columns)
  const [a, b, dy] = [filled(1, 1, columns), filled(1, 1, 1), filled(1, 1, 1)]
  const { y, saved } = await loraForward({ x, a, b }, { dropout: { rate, state: dropoutState(1) } })
  const { da, dx } = await loraBackward({ dy }, saved)
  const mask = maskOf(1, columns, { rate, draw: dropoutState(1) })
  const kept = mask.filter((keeps) => keeps === 1).length
  expect(relativeError(numbers(y), [kept / 0.75])).toBeLessThan(1e-6)
  for (const gradient of [da, dx])
    expect(numbers(gradient).map((value) => Math.sign(value))).toEqual(Float32Array.from(mask))
})

if (backend === 'cuda')
  it('in device memory is what a graph takes: it would not advance a state of the host', async () => {
    const { x, a, router, b } = smallOperands()
    const [ofX, ofA, ofRouter, ofB] = [x, a, router, b].map(({ data, shape }) =>
      lily.tensor(data, shape).to({ type: 'cuda' }),
    )
    await expectRefused('ERR_LILY_ARGUMENT', 'dropout.state: expected memory of the device inside captureGraph', () =>
      lily.captureGraph(() => lily.lilyForward({ x: ofX, a: ofA, router: ofRouter, b: ofB }, { dropout: option() })),
    )
  })
