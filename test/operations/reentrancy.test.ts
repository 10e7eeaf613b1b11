/**
 * Code of the caller that runs while a call reads its arguments (getters of operands and options, predicates) and calls the
 * package itself, on other shapes: the outer call and the inner ones have the results that they have alone.
 */
import { beforeAll, expect, it } from 'vitest'
import {
  AdamW,
  foldB,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraForward,
  type Tensor,
} from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { filled, type HostTensor, sizes, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes

// The calls that the code of the caller makes. Each keeps the shared state of the package busy with other sizes.
const matrix = (seed: number, ...shape: number[]): HostTensor => ({
  data: gaussian(
    randomFrom(seed),
    shape.reduce((product, size) => product * size, 1),
  ),
  shape,
})
const x = matrix(1, 3, 7)
const a = matrix(2, 2, 7)
const router = matrix(3, 4, 2)
const b = matrix(4, 4, 2, 9)
const dy = matrix(5, 3, 9)
const loraB = matrix(6, 9, 2)

function innerCalls(): Tensor[] {
  const { y, saved } = lilyForward({ x, a, router, b }, { mask: [1, 0, 1] })
  const { dx, da } = lilyBackward({ dy }, saved, { deferB: true })
  const db = foldB(saved)
  const lora = loraForward({ x, a, b: loraB })
  const loraGradients = loraBackward({ dy }, lora.saved)
  const parameter = { value: { ...a, data: a.data.slice() }, grad: a }
  new AdamW(new Map([['p', parameter]]), { maxNorm: 1 }).step()
  return [y, dx, da, db, lora.y, loraGradients.dx, loraGradients.db]
}
let count = 0
let isInside = false
let expected: Float32Array[]

/** What every hook below does. */
function intrude(): void {
  if (isInside) return
  isInside = true
  count++
  try {
    for (const [i, { data }] of innerCalls().entries()) expectSameBits(`inner result ${i}`, data, expected[i])
  } finally {
    isInside = false
  }
}

beforeAll(() => {
  isInside = true
  expected = innerCalls().map(({ data }) => data.slice() as Float32Array)
  isInside = false
})

/** A copy of a plain object whose properties, and those of its properties, run code of the caller when they are read. */
function hooked<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
  const copy = {}
  for (const [name, property] of Object.entries(value)) {
    const inside = hooked(property as unknown)
    const get = () => {
      intrude()
      return inside
    }
    Object.defineProperty(copy, name, { get, enumerable: true })
  }
  return copy as T
}

/** Runs a call with its arguments plain, then with hooks, and compares all results bit for bit. */
async function compare(
  run: (hook: <T>(value: T) => T) => Promise<Record<string, ArrayLike<number> & ArrayBufferView>>,
): Promise<void> {
  const plain = await run((value) => value)
  count = 0
  const results = await run(hooked)
  expect(count).toBeGreaterThan(2)
  expect(Object.keys(results)).toEqual(Object.keys(plain))
  for (const [name, result] of Object.entries(results)) expectSameBits(name, result, plain[name])
}

const values = (tensors: object) =>
  Object.fromEntries(
    Object.entries(tensors).flatMap(([name, tensor]) =>
      tensor === undefined ? [] : [[name, (tensor as Tensor).data.slice()]],
    ),
  ) as Record<string, Float32Array>

const lilyInputs = () => {
  const { x, a, router, b } = smallOperands()
  return { x, a, router, b, y: filled(1, tokens, dOut) }
}
const lilyGradients = () => ({
  dy: smallOperands().dy,
  dx: filled(1, tokens, dIn),
  da: filled(2, rank, dIn),
  dRouter: filled(3, experts, rank),
  db: filled(4, experts, rank, dOut),
})
const options = { routing: 'sequence', sequenceOffsets: Int32Array.of(0, 2, tokens), mask: [1, 1, 0, 1, 1, 1] } as const

it.each([
  ['the synchronous calls', lilyForward, lilyBackward],
  ['the Async forms', lilyForwardAsync, lilyBackwardAsync],
] as const)('forward and backward: %s', (_, forward, backward) =>
  compare(async (hook) => {
    const { y, saved } = await forward(hook(lilyInputs()), hook({ scaling: 2, ...options }))
    const gradients = await backward(hook(lilyGradients()), saved, hook({ needs: { dx: true }, accumulate: true }))
    return values({ y, hidden: saved.hidden, weights: saved.weights, ...gradients })
  }),
)

it('foldB', () =>
  compare((hook) => {
    const { saved } = lilyForward(lilyInputs(), options)
    lilyBackward({ dy: smallOperands().dy }, saved, { deferB: true })
    return Promise.resolve(
      values({ db: foldB(saved, hook(filled(1, experts, rank, dOut)), hook({ accumulate: true })) }),
    )
  }))

it('AdamW, also a predicate of a group', () =>
  compare((hook) => {
    const entries = [1, 3].map((seed) => ({ value: matrix(seed, 4, 3), grad: matrix(seed + 1, 4, 3) }))
    const parameters = new Map(entries.map((entry, i) => [`p${i}`, hook(entry)]))
    const match = (name: string) => {
      intrude()
      return name === 'p1'
    }
    const optimiser = new AdamW(parameters, hook({ maxNorm: 1, groups: [{ match, lr: 0.1 }] }))
    optimiser.step(hook({ lrScale: 0.5 }))
    optimiser.load(hook(optimiser.state()))
    optimiser.step()
    return Promise.resolve({ p0: entries[0].value.data, p1: entries[1].value.data })
  }))

it('AdamW: a getter of a gradient that loads a state', () => {
  const value = matrix(1, 4, 3)
  let action = () => {}
  const entry = {
    value,
    get grad() {
      action()
      return matrix(2, 4, 3)
    },
  }
  const optimiser = new AdamW(new Map([['p', entry]]))
  const state = optimiser.state()
  action = () => {
    optimiser.load(state)
  }
  optimiser.step()
  expect(optimiser.stepCount).toBe(1)
  // The moments that were loaded are the ones that the step has updated.
  expect((optimiser.state().parameters.p.expAvg.data as Float32Array).some((number) => number !== 0)).toBe(true)
})
