/**
 * Overlap of an output with an operand through another object of the same memory: refused before anything is written.
 *
 * @asan
 */
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  foldB,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  linearBackward,
  linearBackwardAsync,
  linearForward,
  linearForwardAsync,
  loraForward,
  packLinear,
  type TrainableParameter,
} from '../../lib/index.js'
import { newMoments } from '../../lib/optimiser/moments.js'
import { checkNoOverlap, stateRanges } from '../../lib/optimiser/overlap.js'
import { expectSameBits } from '../support/compare.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, sizes, smallLoraB, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const ARGUMENT = 'ERR_LILY_ARGUMENT'

/** Two arrays over the same `length` floats. */
type Pair = (length: number) => [Float32Array, Float32Array]

const kinds: Record<string, Pair> = {
  'a structured clone of a SharedArrayBuffer': (length) => {
    const buffer = new SharedArrayBuffer(4 * length)
    const clone = structuredClone(buffer)
    expect(clone).not.toBe(buffer)
    return [new Float32Array(buffer), new Float32Array(clone)]
  },
  'a shared WebAssembly.Memory before and after grow': (length) => {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 4, shared: true })
    const before = memory.buffer
    memory.grow(1)
    expect(memory.buffer).not.toBe(before)
    return [new Float32Array(before, 64, length), new Float32Array(memory.buffer, 64, length)]
  },
}

for (const [kind, pair] of Object.entries(kinds)) {
  describe(kind, () => {
    it('forward: y over each operand', async () => {
      for (const name of ['x', 'a', 'router', 'b'] as const) {
        const { dy: _, ...operands } = smallOperands()
        const [one, two] = pair(64)
        const length = operands[name].data.length
        one.set(operands[name].data)
        const call = {
          ...operands,
          [name]: { data: one, shape: operands[name].shape, byteOffset: 0 },
          y: { data: two, shape: [tokens, dOut], byteOffset: 4 * (length - 1) },
        }
        const before = Array.from(one)
        const error = await expectRefused(ARGUMENT, `overlaps that of ${name}`, () => lilyForward(call))
        expect(error.argument).toBe('y')
        await expectRefused(ARGUMENT, `overlaps that of ${name}`, () => lilyForwardAsync(call))
        expect(Array.from(one)).toEqual(before)
        // One element further they no longer overlap.
        const y = { ...call.y, byteOffset: 4 * length }
        const expected = lilyForward({ ...operands, y: filled(0, tokens, dOut) }).y
        lilyForward({ ...call, y })
        expectSameBits('y', one.slice(length, length + tokens * dOut), expected.data)
      }
    })

    it('forward of LoRA: y over b', async () => {
      const { x, a } = smallOperands()
      const [one, two] = pair(64)
      const b = { data: one, shape: smallLoraB().shape, byteOffset: 0 }
      const y = { data: two, shape: [tokens, dOut], byteOffset: 8 }
      await expectRefused(ARGUMENT, 'y: its memory overlaps that of b', () => loraForward({ x, a, b, y }))
    })

    it('a linear layer: y over x, weight and bias, dx over dy and weight', async () => {
      const [one, two] = pair(128)
      const at = (data: Float32Array, from: number, ...shape: number[]) => ({ data, shape, byteOffset: 4 * from })
      one.fill(1)
      const [x, dy] = [at(one, 0, tokens, dIn), at(one, 0, tokens, dOut)]
      const weight = at(one, 40, dOut, dIn)
      const bias = at(one, 64, dOut)
      for (const [other, start] of [
        ['x', tokens * dIn - 1],
        ['weight', 40 + dOut * dIn - 1],
        ['bias', 67],
      ] as const) {
        const y = at(two, start, tokens, dOut)
        const text = `y: its memory overlaps that of ${other}`
        for (const given of [weight, packLinear(weight)]) {
          await expectRefused(ARGUMENT, text, () => linearForward({ x, weight: given, bias, y }))
          await expectRefused(ARGUMENT, text, () => linearForwardAsync({ x, weight: given, bias, y }))
        }
      }
      for (const [other, start] of [
        ['dy', tokens * dOut - 1],
        ['weight', 59],
      ] as const) {
        const dx = at(two, start, tokens, dIn)
        const text = `dx: its memory overlaps that of ${other}`
        await expectRefused(ARGUMENT, text, () => linearBackward({ dy, weight, dx }))
        await expectRefused(ARGUMENT, text, () => linearBackwardAsync({ dy, weight: packLinear(weight), dx }))
      }
      expect(new Set(one)).toEqual(new Set([1]))
    })

    it('backward: a gradient over an operand, over dy, over another gradient; fold over b', async () => {
      const { dy, ...operands } = smallOperands()
      const [one, two] = pair(128)
      const at = (data: Float32Array, from: number, ...shape: number[]) => ({ data, shape, byteOffset: 4 * from })
      one.set(operands.x.data)
      const { saved } = lilyForward({ ...operands, x: at(one, 0, tokens, dIn) })
      const before = Array.from(one)
      const calls = [
        ['dx', 'x', { dy, dx: at(two, 0, tokens, dIn) }],
        ['db', 'x', { dy, db: at(two, 7, experts, rank, dOut) }],
        ['da', 'dy', { dy: at(one, 40, tokens, dOut), da: at(two, 63, rank, dIn) }],
        ['dRouter', 'da', { dy, da: at(one, 40, rank, dIn), dRouter: at(two, 54, experts, rank) }],
      ] as const
      for (const [argument, other, call] of calls) {
        const text = `${argument}: its memory overlaps that of ${other}`
        await expectRefused(ARGUMENT, text, () => lilyBackward(call, saved))
        await expectRefused(ARGUMENT, text, () => lilyBackwardAsync(call, saved))
      }
      expect(Array.from(one)).toEqual(before)

      const b = at(one, 64, experts, rank, dOut)
      const shared = lilyForward({ ...operands, b }).saved
      lilyBackward({ dy }, shared, { deferB: true })
      await expectRefused(ARGUMENT, 'db: its memory overlaps that of b', () =>
        foldB(shared, at(two, 64, experts, rank, dOut)),
      )
    })

    it('AdamW: a parameter twice, a gradient over a parameter', async () => {
      const [one, two] = pair(16)
      const at = (data: Float32Array, from: number) => ({ data, shape: [4], byteOffset: 4 * from })
      const refusals = [
        [
          'q.value',
          'p.value',
          { p: { value: at(one, 0), grad: at(one, 4) }, q: { value: at(two, 0), grad: at(two, 8) } },
        ],
        [
          'q.grad',
          'p.value',
          { p: { value: at(one, 0), grad: at(one, 4) }, q: { value: at(two, 8), grad: at(two, 3) } },
        ],
        ['p.grad', 'p.value', { p: { value: at(one, 0), grad: at(two, 3) } }],
      ] as const
      for (const [argument, other, parameters] of refusals) {
        one.fill(1)
        const optimiser = new AdamW(new Map(Object.entries(parameters)), { lr: 0.1 })
        const error = await expectRefused(ARGUMENT, `overlaps that of ${other}`, () => optimiser.step())
        expect(error.argument).toBe(argument)
        expect(optimiser.stepCount).toBe(0)
        expect(Array.from(one)).toEqual(Array.from({ length: 16 }, () => 1))
      }
      const apart = { p: { value: at(one, 0), grad: at(one, 4) }, q: { value: at(two, 8), grad: at(two, 12) } }
      new AdamW(new Map(Object.entries(apart)), { lr: 0.1 }).step()
      expect(one[0]).toBeLessThan(1)
      expect(one[0]).toBe(one[8])
    })
  })
}

it('columns of one matrix in shared memory, through two objects, do not overlap', () => {
  const { x, dy: _, ...rest } = smallOperands()
  const width = dIn + dOut
  const buffer = new SharedArrayBuffer(4 * tokens * width)
  const fused = new Float32Array(buffer)
  for (let t = 0; t < tokens; t++) fused.set(x.data.subarray(t * dIn, (t + 1) * dIn), t * width)
  const strides = [width, 1]
  const y = { data: new Float32Array(structuredClone(buffer)), shape: [tokens, dOut], strides, byteOffset: 4 * dIn }
  lilyForward({ x: { data: fused, shape: [tokens, dIn], strides }, ...rest, y })
  const apart = lilyForward({ x, ...rest, y: filled(0, tokens, dOut) }).y
  for (let t = 0; t < tokens; t++) {
    const row = fused.slice(t * width + dIn, (t + 1) * width)
    expectSameBits(`row ${t}`, row, apart.data.subarray(t * dOut, (t + 1) * dOut))
  }
})

it.each([
  ['y begins in the last column of x', 0, dIn - 1],
  ['y ends in the first column of x', dOut - 1, 0],
])('columns of one matrix that have one in common: %s', async (_, ofX, ofY) => {
  const { dy: __, x: ___, ...rest } = smallOperands()
  const width = dIn + dOut
  const { data } = filled(1, tokens + 1, width)
  const columns = (from: number, count: number) => ({
    data,
    shape: [tokens, count],
    strides: [width, 1],
    byteOffset: 4 * from,
  })
  await expectRefused(ARGUMENT, 'y: its memory overlaps that of x', () =>
    lilyForward({ x: columns(ofX, dIn), ...rest, y: columns(ofY, dOut) }),
  )
  expect(new Set(data)).toEqual(new Set([1]))
})

it('foldB and backward: db over b, or over what forward has saved, of any layer', async () => {
  // As many groups as make the weights as large as db.
  const groups = rank * dOut
  const offsets = Array.from({ length: groups + 1 }, (_, i) => i)
  const [x, dy] = [filled(1, groups, dIn), filled(1, groups, dOut)]
  const [first, second] = [1, 2].map((value) => {
    const b = filled(value, experts, rank, dOut)
    const weights = filled(0.5, groups, experts)
    const options = { routing: 'fixed', weights, sequenceOffsets: offsets } as const
    const { saved } = lilyForward({ x, a: filled(1, rank, dIn), b }, options)
    lilyBackward({ dy }, saved, { deferB: true, retain: true })
    return { b, saved }
  })
  const { b, saved } = second
  const refusals = [
    ['overlaps that of b', b.data],
    ['is that of saved;', saved.hidden.data],
    ['is that of saved.weights', saved.weights.data],
  ] as const
  for (const [text, data] of refusals) {
    const before = data.slice()
    const db = { data: data.subarray(0, experts * rank * dOut), shape: [experts, rank, dOut] }
    const message = `db: its memory ${text}`
    await expectRefused(ARGUMENT, message, () => foldB([first.saved, saved], db))
    await expectRefused(ARGUMENT, message, () => lilyBackward({ dy, db }, saved))
    expect(data).toEqual(before)
  }
})

it('a single row between the rows of another operand overlaps none of them', () => {
  const { x, dy, a, router, b } = smallOperands()
  const width = dIn + dOut
  const row = { x: { data: x.data.subarray(0, dIn), shape: [1, dIn] }, router, b }
  const spread = () => {
    const data = new Float32Array(rank * width)
    for (let i = 0; i < rank; i++) data.set(a.data.subarray(i * dIn, (i + 1) * dIn), i * width)
    const between = { data, shape: [1, dOut], byteOffset: 4 * (width + dIn) }
    return { rows: { data, shape: [rank, dIn], strides: [width, 1] }, between }
  }
  const forward = spread()
  const expected = lilyForward({ ...row, a })
  const { y, saved } = lilyForward({ ...row, a: forward.rows, y: forward.between })
  expectSameBits('y', y.data, expected.y.data)

  const backward = spread()
  y.data.set(dy.data.subarray(0, dOut))
  backward.between.data.set(dy.data.subarray(0, dOut), width + dIn)
  const { da } = lilyBackward({ dy: backward.between, da: backward.rows }, saved)
  const same = lilyBackward({ dy: y, da: { ...a, data: a.data.slice() } }, expected.saved).da
  for (let i = 0; i < rank; i++)
    expectSameBits(`row ${i}`, da.data.slice(i * width, i * width + dIn), same.data.slice(i * dIn, (i + 1) * dIn))
})

it('AdamW: a parameter without elements, in the memory of another', () => {
  const [value, grad] = [filled(1, 4), filled(1, 4)]
  const within = ({ data }: { data: Float32Array }) => ({ data: data.subarray(2, 2), shape: [0] })
  const parameters = { p: { value, grad }, empty: { value: within(value), grad: within(grad) } }
  new AdamW(new Map<string, TrainableParameter>(Object.entries(parameters)), { lr: 0.1 }).step()
  expect(new Set(value.data).size).toBe(1)
  expect(value.data[0]).toBeLessThan(1)
})

it('AdamW: a gradient over the norm of all gradients, which a step writes', async () => {
  const parameters = new Map<string, TrainableParameter>([['p', { value: filled(1, 1), grad: filled(1, 1) }]])
  const optimiser = new AdamW(parameters, { maxNorm: 1 })
  optimiser.step()
  parameters.set('p', { value: filled(1, 1), grad: optimiser.gradNorm! })
  const error = await expectRefused(ARGUMENT, 'overlaps that of gradNorm', () => optimiser.step())
  expect(error.argument).toBe('p.grad')
})

it("AdamW: arrays over the optimiser's moments, which the caller's own host memory never is", async () => {
  const moments = new Map(['p', 'q'].map((name) => [name, newMoments(name, [4], null)]))
  const apart = () => newMoments('apart', [4], null).expAvg
  for (const [name, { expAvg, expAvgSq }] of moments) {
    for (const [of, operand] of Object.entries({ expAvg, expAvgSq })) {
      const error = await expectRefused(ARGUMENT, `overlaps that of the optimiser's ${of} of ${name};`, () => {
        checkNoOverlap([{ name: 'r', value: apart(), grad: operand }], stateRanges(moments, null))
      })
      expect(error.argument).toBe('r.grad')
    }
  }
  checkNoOverlap([{ name: 'r', value: apart(), grad: apart() }], stateRanges(moments, null))
})
