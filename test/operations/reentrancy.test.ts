/**
 * Code of the caller that runs while a call reads its arguments (getters, traps of proxies, properties of typed arrays, toString)
 * and calls the package itself, on other shapes: the outer call and the inner ones have the results that they have alone.
 */
import { beforeAll, describe, expect, it } from 'vitest'
import {
  AdamW,
  foldB,
  LilyAdapters,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  LilyModel,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  type Tensor,
} from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { gaussian, randomFrom } from '../support/random.js'
import { filled, type HostTensor, sizes, smallLoraB, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes

/* The calls that the code of the caller makes. Each keeps the shared state of the package busy with other sizes. */

const inner = { tokens: 3, dIn: 7, dOut: 9, rank: 2, experts: 4 }
const matrix = (seed: number, ...shape: number[]): HostTensor => ({
  data: gaussian(
    randomFrom(seed),
    shape.reduce((product, size) => product * size, 1),
  ),
  shape,
})
const x = matrix(1, inner.tokens, inner.dIn)
const a = matrix(2, inner.rank, inner.dIn)
const router = matrix(3, inner.experts, inner.rank)
const b = matrix(4, inner.experts, inner.rank, inner.dOut)
const dy = matrix(5, inner.tokens, inner.dOut)
const loraB = matrix(6, inner.dOut, inner.rank)

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
/** Not awaited: they run beside the outer call. */
let started: Promise<{ y: Tensor }>[] = []
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
    if (count % 8 === 0) started.push(lilyForwardAsync({ x, a, router, b }, { mask: [1, 0, 1] }))
  } finally {
    isInside = false
  }
}

beforeAll(() => {
  isInside = true
  expected = innerCalls().map(({ data }) => data.slice() as Float32Array)
  isInside = false
})

/* Hooks. */

const VIEW = [
  'buffer',
  'byteOffset',
  'byteLength',
  'length',
  'BYTES_PER_ELEMENT',
  'subarray',
  Symbol.toStringTag,
] as const

/** The same typed array, with getters for what a call could read of it. */
function hookedArray<T extends ArrayBufferView>(data: T): T {
  for (const name of VIEW) {
    const value: unknown = Reflect.get(data, name)
    Object.defineProperty(data, name, {
      configurable: true,
      get() {
        intrude()
        return value
      },
    })
  }
  return data
}

/** An object whose properties, and those of its properties, run code of the caller at every access. */
function hooked<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (ArrayBuffer.isView(value)) return hookedArray(value)
  if (Object.getPrototypeOf(value) !== Object.prototype && !Array.isArray(value)) return value
  const kept = new Map<string | symbol, unknown>()
  return new Proxy(value, {
    get(target, name) {
      intrude()
      if (!kept.has(name)) kept.set(name, hooked(Reflect.get(target, name)))
      const property = kept.get(name)
      intrude()
      return property
    },
    has(target, name) {
      intrude()
      return Reflect.has(target, name)
    },
    ownKeys(target) {
      intrude()
      return Reflect.ownKeys(target)
    },
    getPrototypeOf(target) {
      intrude()
      return Reflect.getPrototypeOf(target)
    },
    getOwnPropertyDescriptor(target, name) {
      intrude()
      return Reflect.getOwnPropertyDescriptor(target, name)
    },
  })
}

/** Runs a call with its arguments plain, then with hooks, and compares all results bit for bit. */
async function compare(
  run: (hook: <T>(value: T) => T) => Promise<Record<string, ArrayLike<number> & ArrayBufferView>>,
): Promise<void> {
  const plain = await run((value) => value)
  count = 0
  started = []
  const results = await run(hooked)
  for (const { y } of await Promise.all(started)) expectSameBits('inner Async', y.data, expected[0])
  expect(count).toBeGreaterThan(20)
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
const loraInputs = () => {
  const { x, a } = smallOperands()
  return { x, a, b: smallLoraB(), y: filled(1, tokens, dOut) }
}
const loraGradients = () => ({
  dy: smallOperands().dy,
  dx: filled(1, tokens, dIn),
  da: filled(2, rank, dIn),
  db: filled(4, dOut, rank),
})
const options = { routing: 'sequence', sequenceOffsets: Int32Array.of(0, 2, tokens), mask: [1, 1, 0, 1, 1, 1] } as const

describe('code of the caller that calls the package', () => {
  it.each([
    ['lilyForward', lilyForward],
    ['lilyForwardAsync', lilyForwardAsync],
  ] as const)('does not change %s', (_, forward) =>
    compare(async (hook) => {
      const { y, saved } = await forward(hook(lilyInputs()), hook({ scaling: 2, ...options }))
      return values({ y, hidden: saved.hidden, weights: saved.weights })
    }),
  )

  it.each([
    ['lilyBackward', lilyBackward],
    ['lilyBackwardAsync', lilyBackwardAsync],
  ] as const)('does not change %s', (_, backward) =>
    compare(async (hook) => {
      const { saved } = lilyForward(lilyInputs(), options)
      return values(await backward(hook(lilyGradients()), saved, hook({ needs: { dx: true }, accumulate: true })))
    }),
  )

  it('does not change a backward whose forward was given such operands', () =>
    compare(async (hook) => {
      const { saved } = await lilyForwardAsync(hook(lilyInputs()), options)
      return values(lilyBackward(lilyGradients(), saved))
    }))

  it.each([
    ['loraForward and loraBackward', loraForward, loraBackward],
    ['loraForwardAsync and loraBackwardAsync', loraForwardAsync, loraBackwardAsync],
  ] as const)('does not change %s', (_, forward, backward) =>
    compare(async (hook) => {
      const { y, saved } = await forward(hook(loraInputs()), hook({ scaling: 2 }))
      const gradients = await backward(hook(loraGradients()), saved, hook({ needs: { da: true } }))
      return values({ y, hidden: saved.hidden, ...gradients })
    }),
  )

  it('does not change foldB', () =>
    compare((hook) => {
      const calls = [1, 2].map(() => {
        const { saved } = lilyForward(lilyInputs(), options)
        lilyBackward({ dy: smallOperands().dy }, saved, { deferB: true })
        return saved
      })
      const db = foldB(hook(calls), hook(filled(1, experts, rank, dOut)), hook({ accumulate: true }))
      return Promise.resolve(values({ db }))
    }))

  it('does not change AdamW', () =>
    compare((hook) => {
      const parameter = (seed: number) => ({ value: matrix(seed, 4, 3), grad: matrix(seed + 1, 4, 3) })
      const entries = [parameter(1), parameter(3)]
      const parameters = new Map(entries.map((entry, i) => [`p${i}`, hook(entry)]))
      const optimiser = new AdamW(parameters, hook({ maxNorm: 1, groups: [{ match: ['p1'], lr: 0.1 }] }))
      optimiser.step(hook({ lrScale: 0.5 }))
      optimiser.load(hook(optimiser.state()))
      optimiser.step()
      return Promise.resolve({ p0: entries[0].value.data, p1: entries[1].value.data })
    }))

  it('does not change a layer of several adapters, merge, or calibrate', () =>
    compare(async (hook) => {
      const layers = [{ name: 'q', inFeatures: dIn, outFeatures: dOut }]
      const models = [1, 2].map((seed) =>
        LilyModel.create(hook({ layers, config: { r: rank, initWeights: false }, seed })),
      )
      const set = new LilyAdapters().addAdapter('one', models[0]).addAdapter('two', models[1])
      const layer = set.setAdapter(hook(['one', 'two'])).layer('q')
      const [y, dx] = [filled(1, tokens, dOut), filled(1, tokens, dIn)]
      const { saved } = layer.forward(hook({ x: hook(smallOperands().x), y: hook(y) }), hook({ mask: options.mask }))
      layer.backward(hook({ dy: hook(smallOperands().dy), saved, dx: hook(dx) }), hook({ needs: { da: true } }))
      const { weights } = await models[0].calibrate(hook({ q: [smallOperands().x] }))
      models[0].freeze(hook({ q: Array.from(weights.get('q') ?? []) }))
      const weight = filled(1, dOut, dIn)
      models[0].merge('q', hook(weight))
      const grads = Array.from(set.parameters(), ([name, { grad }]) => [name, grad])
      return { y: y.data, dx: dx.data, weight: weight.data, ...values(Object.fromEntries(grads) as object) }
    }))
})

describe('code of the caller that changes an object of the call', () => {
  it.each(['load', 'dispose'] as const)('AdamW: %s in a getter of a gradient', (method) => {
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
      if (method === 'load') optimiser.load(state)
      else optimiser.dispose()
    }
    const before = value.data.slice()
    if (method === 'load') {
      optimiser.step()
      expect(optimiser.stepCount).toBe(1)
      // The moments that were loaded are the ones that the step has updated.
      expect((optimiser.state().parameters.p.expAvg.data as Float32Array).some((number) => number !== 0)).toBe(true)
    } else {
      expect(() => {
        optimiser.step()
      }).toThrow(expect.objectContaining({ code: 'ERR_LILY_DISPOSED' }))
      expectSameBits('value', value.data, before)
    }
  })

  it('a layer that is merged while its weight, or weights to freeze it with, are read', () => {
    const model = LilyModel.create({
      layers: [{ name: 'q', inFeatures: dIn, outFeatures: dOut }],
      config: { r: rank, initWeights: false },
    })
    model.freeze('uniform')
    const weight = filled(1, dOut, dIn)
    const merging = (shape: number[]) => ({
      data: weight.data,
      get shape() {
        if (!model.layer('q').isMerged) model.merge('q', filled(0, dOut, dIn))
        return shape
      },
    })
    const refused: unknown = expect.objectContaining({ code: 'ERR_LILY_ARGUMENT' })
    const before = weight.data.slice()
    expect(() => {
      model.merge('q', merging([dOut, dIn]))
    }).toThrow(refused)
    expectSameBits('weight', weight.data, before)
    model.unmerge('q', filled(0, dOut, dIn))
    const weights = {
      get q() {
        model.merge('q', filled(0, dOut, dIn))
        return [1, 0]
      },
    }
    expect(() => {
      model.freeze(weights)
    }).toThrow(refused)
    expect(model.layer('q').frozenWeights).toEqual(Float32Array.of(0.5, 0.5))
  })
})
