/**
 * AdamW compared with recorded results of PyTorch, with its formula in float64, and with a second run.
 *
 * @project cpu wasm webgpu cuda @asan
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, test } from 'vitest'
import {
  AdamW,
  type AdamWOptions,
  LilyError,
  loraForwardAsync,
  readState,
  saveState,
  type Tensor,
  tensor,
  type TensorLike,
  type TrainableParameter,
} from '../../lib/index.js'
import { checkHistory } from '../support/adamw.js'
import { backend, isEmulated, isSanitized, isWebGpu } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import type { Float } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { everyNth } from '../support/runs.js'
import { temporaryFolder } from '../support/temporary.js'
import { type History, Placed, train, type TrainedParameter, trainInChild, Training } from '../support/training.js'

type Numbers = Record<string, number[]>
interface Recorded {
  values: Numbers[]
  norms: number[]
  exp_avg: Numbers
  exp_avg_sq: Numbers
}
interface Case extends Omit<AdamWOptions, 'groups'> {
  name: string
  groups?: Record<string, { lr?: number; weightDecay?: number }>
  float32: Recorded
  float64: Recorded
}
interface Fixture {
  torch: string
  shapes: Record<string, number[]>
  start: Numbers
  gradients: Numbers[]
  cases: Case[]
}

const file = new URL('../fixtures/adamw/torch.json', import.meta.url)
const { torch, shapes, start, gradients, cases } = JSON.parse(readFileSync(file, 'utf8')) as Fixture

const ROUNDING = 2 ** -24

/** Parameters with numbers from a seed, and gradients whose magnitude differs from step to step. */
function makeTrained(
  specs: readonly (Pick<TrainedParameter, 'shape' | 'dtype' | 'gradDtype' | 'margin'> & { name?: string })[],
  steps = 3,
): TrainedParameter[] {
  const random = randomFrom(specs.length)
  return specs.map((spec, i) => {
    const count = spec.shape.reduce((product, size) => product * size, 1)
    const gradients = Array.from({ length: steps }, (_, step) => gaussian(random, count, [1, 0.01, 3][step % 3]))
    return { name: `p${i}`, ...spec, start: gaussian(random, count), gradients }
  })
}

function expectSameHistory(actual: History, expected: History): void {
  expect(actual.norms).toEqual(expected.norms)
  expect(actual.values.length).toBe(expected.values.length)
  for (const [step, values] of expected.values.entries())
    for (const [name, data] of Object.entries(values))
      expectSameBits(`${name}, step ${step}`, actual.values[step][name], data)
  for (const key of ['expAvg', 'expAvgSq'] as const)
    for (const [name, data] of Object.entries(expected[key]))
      expectSameBits(`${key} of ${name}`, actual[key][name], data)
}

describe(`PyTorch ${torch}`, () => {
  const trained = Object.entries(shapes).map(([name, shape]) => ({
    name,
    shape,
    start: start[name],
    gradients: gradients.map((step) => step[name]),
  }))

  it.each(cases)('$name', async ({ float32, float64, groups = {}, name: _, ...options }) => {
    const list = Object.entries(groups).map(([name, rates]) => ({ match: [name], ...rates }))
    const { values, norms, expAvg, expAvgSq } = await train(trained, { ...options, groups: list })
    // The error may be as large as that of PyTorch in float32, with a lower bound in case that error is very small.
    const expectAsClose = (name: string, actual: ArrayLike<number>, plain: number[], exact: number[]) => {
      const limit = Math.max(2 * relativeError(plain, exact), 2 * ROUNDING)
      expect(relativeError(actual, exact), name).toBeLessThanOrEqual(limit)
    }
    expect(values.length).toBe(float64.values.length)
    for (const [step, exact] of float64.values.entries())
      for (const name of Object.keys(shapes))
        expectAsClose(`${name}, step ${step + 1}`, values[step][name], float32.values[step][name], exact[name])
    for (const name of Object.keys(shapes)) {
      expectAsClose(`exp_avg of ${name}`, expAvg[name], float32.exp_avg[name], float64.exp_avg[name])
      expectAsClose(`exp_avg_sq of ${name}`, expAvgSq[name], float32.exp_avg_sq[name], float64.exp_avg_sq[name])
    }
    expect(norms.length).toBe(float64.norms.length)
    if (norms.length > 0) expectAsClose('norms', norms, float32.norms, float64.norms)
  })
})

const types: { dtype: Float; gradDtype: Float }[] = [
  { dtype: 'float32', gradDtype: 'float32' },
  { dtype: 'bfloat16', gradDtype: 'bfloat16' },
  { dtype: 'bfloat16', gradDtype: 'float32' },
  { dtype: 'float16', gradDtype: 'float16' },
  { dtype: 'float16', gradDtype: 'float32' },
]
// Sizes up to several blocks of a kernel and several tasks of the thread pool.
const large = isEmulated || isWebGpu ? [2, 33, 31] : [5, 7001]
const sizes = [[1], [7], [3, 5], [0, 4], [2048], large]
const mixed = makeTrained(
  sizes.flatMap((shape, i) => [0, 1].map((j) => ({ shape, ...types[(i + 2 * j) % types.length] }))),
)
const odd: AdamWOptions = { lr: 0.02, betas: [0.8, 0.99], eps: 1e-3, weightDecay: 0.1 }

const rows: [string, AdamWOptions][] = [
  ['defaults', {}],
  ['other options', odd],
  ['no momentum', { lr: 0.1, betas: [0, 0], eps: 0.1, weightDecay: 0 }],
  ['clipped', { lr: 0.05, maxNorm: 1 }],
  ['clipping without effect', { ...odd, maxNorm: Infinity }],
  [
    'groups',
    {
      ...odd,
      maxNorm: 3,
      groups: [
        { match: ['p1', 'p4'], lr: 0.3 },
        { match: ['p2'], weightDecay: 0 },
      ],
    },
  ],
]

describe('the formula', () => {
  // Each type with half of the options, by turns; float32 gradients, which are every second type, have all of them.
  describe.each(types.map((type, turn) => ({ ...type, turn })))(
    '$dtype, gradients in $gradDtype',
    ({ turn, ...type }) => {
      const trained = makeTrained(sizes.map((shape) => ({ shape, ...type })))
      it.each(everyNth(isSanitized ? 3 : 2, rows, turn >> 1))('%s', async (_, options) => {
        checkHistory(await train(trained, options), trained, options)
      })
    },
  )

  it('arrays that begin at any element', async () => {
    const trained = makeTrained(
      types.flatMap((type) => [1, 2, 3].map((margin) => ({ shape: [3, 37], margin, ...type }))),
    )
    checkHistory(await train(trained, { maxNorm: 2 }), trained, { maxNorm: 2 })
  })

  it('more parameters than one launch takes', async () => {
    const trained = makeTrained(Array.from({ length: 130 }, (_, i) => ({ shape: [1 + (i % 7)], ...types[i % 5] })))
    checkHistory(await train(trained, { ...odd, maxNorm: 2 }), trained, { ...odd, maxNorm: 2 })
  })

  it('a schedule, whose factor scales the rate of every group', async () => {
    const trained = makeTrained(
      types.map((type) => ({ shape: [3, 37], ...type })),
      6,
    )
    const options = { ...odd, groups: [{ match: ['p1', 'p3'], lr: 0.3 }] }
    const schedule = (step: number) => [0.25, 0.5, 1, 1, 0.1, 0][step]
    checkHistory(await train(trained, options, schedule), trained, options, schedule)
  })

  it('a zero gradient applies weight decay only', async () => {
    const { values } = await train([{ name: 'a', shape: [3], start: [1, -2, 3], gradients: [[0, 0, 0]] }], {
      lr: 0.5,
      weightDecay: 0.5,
    })
    expect([...values[0].a]).toEqual([0.75, -1.5, 2.25])
  })
})

describe('the results are bit-equal', () => {
  const options = { ...odd, maxNorm: 2 }

  test('in a second run', async () => {
    expectSameHistory(await train(mixed, options), await train(mixed, options))
  })

  test('after the state was saved and loaded', async () => {
    const trained = makeTrained(
      mixed.map(({ shape, dtype, gradDtype }) => ({ shape, dtype, gradDtype })),
      6,
    )
    const whole = await train(trained, options)
    const first = new Training(trained, options)
    for (const step of [0, 1, 2]) first.step(step)
    const values = await first.read()
    const state = first.optimiser.state()
    // Later steps do not change the saved state.
    first.step(3)

    const saved = { step: state.step, parameters: {} as Record<string, { expAvg: TensorLike; expAvgSq: TensorLike }> }
    for (const [name, moments] of Object.entries(state.parameters)) {
      const host = async (moment: Tensor) => {
        const { data, shape } = await moment.toHost()
        return { data: data.slice() as Float32Array, shape }
      }
      saved.parameters[name] = { expAvg: await host(moments.expAvg), expAvgSq: await host(moments.expAvgSq) }
    }
    const resumed = trained.map((p) => ({ ...p, start: values[p.name] }))
    const path = join(temporaryFolder(), 'optimiser.safetensors')
    await saveState(path, state)
    for (const loaded of [saved, state, await readState(path)]) {
      const second = new Training(resumed, options)
      second.optimiser.load(loaded)
      expect(second.optimiser.stepCount).toBe(3)
      for (const step of [3, 4, 5]) {
        second.step(step)
        for (const [name, data] of Object.entries(await second.read()))
          expectSameBits(`${name}, step ${step}`, data, whole.values[step][name])
      }
      const moments = await second.moments()
      expectSameHistory({ values: [], norms: [], ...moments }, { ...whole, values: [], norms: [] })
    }
    // Nor do the steps of an optimiser that has loaded it.
    const { parameters } = await readState(path)
    for (const [name, { expAvg }] of Object.entries(saved.parameters)) {
      expectSameBits(name, (expAvg as unknown as { data: Float32Array }).data, parameters[name].expAvg.data)
    }
  })

  test('for every way to match a group, and with a scaled rate', async () => {
    const trained = makeTrained([
      { name: 'x.A', shape: [9] },
      { name: 'x.B', shape: [9] },
      { name: 'y.B', shape: [9] },
    ])
    const expected = await train(trained, { lr: 0.1, groups: [{ match: ['y.B', 'x.B'], lr: 0.4, weightDecay: 0.5 }] })
    for (const match of [/\.B$/, /B/g, (name: string) => name.endsWith('B')])
      expectSameHistory(await train(trained, { lr: 0.1, groups: [{ match, lr: 0.4, weightDecay: 0.5 }] }), expected)

    const scaled = new Training(trained, {
      lr: 0.2,
      weightDecay: 0.01,
      groups: [{ match: /B/, lr: 0.8, weightDecay: 0.5 }],
    })
    scaled.writeGradients(0)
    scaled.optimiser.step({ lrScale: 0.5 })
    for (const [name, data] of Object.entries(await scaled.read())) expectSameBits(name, data, expected.values[0][name])
  })

  // These variables apply to the cpu backend only.
  if (backend === 'cpu') {
    test.each([1, 3])('LILY_NUM_THREADS=%s', async (threads) => {
      const history = await trainInChild({ trained: mixed, options }, { LILY_NUM_THREADS: String(threads) })
      expectSameHistory(history!, await train(mixed, options))
    })

    test.each(['portable', 'avx2', 'avx512', 'avx512bf16'])('LILY_CPU_ISA=%s matches the formula', async (isa) => {
      const history = await trainInChild({ trained: mixed, options }, { LILY_CPU_ISA: isa })
      if (history === undefined) {
        expect(isa, 'the portable kernels run everywhere').not.toBe('portable')
        console.log(`LILY_CPU_ISA=${isa} is skipped: this processor does not support it`)
        return
      }
      checkHistory(history, mixed, options)
    })
  }
})

describe("a norm that is not finite, with onNonFinite 'ignore',", () => {
  const steps = (bad: number) => [
    { name: 'a', shape: [2], start: [1, 2], gradients: [[bad, 1]] },
    { name: 'b', shape: [2], start: [1, -2], gradients: [[1, -1]] },
  ]

  it('of NaN makes all values NaN, as in PyTorch', async () => {
    const { values, norms } = await train(steps(NaN), { maxNorm: 1, onNonFinite: 'ignore' })
    expect(norms).toEqual([NaN])
    expect([...values[0].a, ...values[0].b]).toEqual([NaN, NaN, NaN, NaN])
  })

  it('of infinity scales finite gradients to zero', async () => {
    const options = { lr: 0.5, weightDecay: 0.5, maxNorm: 1, onNonFinite: 'ignore' } as const
    const { values, norms } = await train(steps(-Infinity), options)
    expect(norms).toEqual([Infinity])
    expect([...values[0].a, ...values[0].b]).toEqual([NaN, 1.5, 0.75, -1.5])
  })

  // The others add up the squares in float32, as PyTorch does.
  if (backend === 'cpu')
    it('is not that of numbers whose squares are beyond float32', async () => {
      const of = (...gradient: number[]) => [{ name: 'a', shape: [2], start: [1, 2], gradients: [gradient] }]
      const options = { lr: 0.5, weightDecay: 0, eps: 0, maxNorm: 1 }
      const large = await train(of(3e30, -4e30), options)
      expect(large.norms[0] / 5e30).toBeCloseTo(1, 6)
      const [first, second] = large.values[0].a
      expect(first).toBeCloseTo(0.5, 6)
      expect(second).toBeCloseTo(2.5, 6)
      const small = await train(of(3e-30, -4e-30), options)
      expect(small.norms[0] / 5e-30).toBeCloseTo(1, 6)
    })

  it('is not computed without maxNorm', async () => {
    const { values } = await train(steps(NaN), { lr: 0.5, weightDecay: 0, eps: 0, onNonFinite: 'ignore' })
    expect([...values[0].a]).toEqual([NaN, 1.5])
    expect([...values[0].b]).toEqual([0.5, -1.5])
  })
})

describe('gradients that are not finite', () => {
  const bad: [string, number, number | undefined][] = [
    ['NaN', NaN, undefined],
    ['NaN, clipped', NaN, 1],
    ['infinity', Infinity, undefined],
    ['-infinity, clipped', -Infinity, 1],
  ]
  // Steps 1, 2 and 5 have one number that is not finite, in the last parameter.
  const isBad = (step: number) => [1, 2, 5].includes(step)
  function makeBad(number: number): TrainedParameter[] {
    const trained = makeTrained(
      [...types, types[0]].map((type, i) => ({ shape: [i + 2, 31], ...type })),
      7,
    )
    const { gradients } = trained[trained.length - 1]
    for (const [step, gradient] of gradients.entries())
      if (isBad(step)) (gradient as Float32Array)[gradient.length - 2] = number
    return trained
  }

  it.each(bad)("'skip': such a step is as if there were none, %s", async (_, number, maxNorm) => {
    const trained = makeBad(number)
    const options = { ...odd, maxNorm, onNonFinite: 'skip' } as const
    const training = new Training(trained, options)
    const history: History = { values: [], norms: [], expAvg: {}, expAvgSq: {} }
    let before = { values: await training.read(), ...(await training.moments()) }
    for (let step = 0; step < 7; step++) {
      training.step(step)
      const now = { values: await training.read(), ...(await training.moments()) }
      const norm = await training.norm()
      const done = [1, 1, 1, 2, 3, 3, 4][step]
      expect(training.optimiser.stepCount).toBe(done)
      expect(training.optimiser.skippedSteps).toBe(step + 1 - done)
      expect(training.optimiser.state().step).toBe(done)
      if (isBad(step)) {
        expectSameHistory(
          { ...now, values: [now.values], norms: [] },
          { ...before, values: [before.values], norms: [] },
        )
        if (norm !== undefined) expect(norm).not.toBeLessThan(Infinity)
      } else {
        history.values.push(now.values)
        if (norm !== undefined) history.norms.push(norm)
      }
      before = now
    }
    const good = trained.map((parameter) => ({
      ...parameter,
      gradients: parameter.gradients.filter((_, step) => !isBad(step)),
    }))
    checkHistory({ ...history, ...(await training.moments()) }, good, options)
    // The host knows which steps are skipped, so that it counts like an optimiser without them.
    if (backend === 'cpu') expectSameHistory({ ...history, ...(await training.moments()) }, await train(good, options))

    training.optimiser.load(training.optimiser.state())
    expect(training.optimiser.stepCount).toBe(4)
    expect(training.optimiser.skippedSteps).toBe(0)
  })

  if (backend === 'cpu') {
    it.each(bad)('is an error that names the parameter, %s', async (_, number, maxNorm) => {
      const trained = makeBad(number)
      const training = new Training(trained, { ...odd, maxNorm })
      training.step(0)
      const before = { values: [await training.read()], norms: [], ...(await training.moments()) }
      training.writeGradients(1)
      const message = 'p5.grad: expected finite numbers, got an infinity or NaN at element 215;'
      await expectRefused('ERR_LILY_ARGUMENT', message, () => training.optimiser.step())
      expectSameHistory({ values: [await training.read()], norms: [], ...(await training.moments()) }, before)
      expect(training.optimiser.stepCount).toBe(1)
      expect(training.optimiser.skippedSteps).toBe(1)
      training.step(3)
      const good = trained.map((p) => ({ ...p, gradients: [p.gradients[0], p.gradients[3]] }))
      const { values } = await train(good, { ...odd, maxNorm })
      for (const [name, data] of Object.entries(await training.read())) expectSameBits(name, data, values[1][name])
    })
    it('are no numbers whose norm alone is infinite in float32', () => {
      const training = new Training([{ name: 'a', shape: [2], start: [1, 2], gradients: [[3e38, 3e38]] }], {})
      training.step(0)
      expect(training.optimiser.stepCount).toBe(1)
    })
  } else {
    it.each(bad)('are an error of the next promise, %s', async (_, number, maxNorm) => {
      const trained = makeBad(number)
      const training = new Training(trained, { ...odd, maxNorm })
      training.step(0)
      const before = await training.read()
      training.step(1)
      training.step(2)
      const message = 'grad: expected finite gradients with a norm of at most 1.8e19, got others in 2 steps on'
      await expectRefused('ERR_LILY_ARGUMENT', message, () => training.moments())
      expect(training.optimiser.stepCount).toBe(1)
      expect(training.optimiser.skippedSteps).toBe(2)
      for (const [name, data] of Object.entries(await training.read())) expectSameBits(name, data, before[name])
      training.step(3)
      await training.moments()
      expect(training.optimiser.stepCount).toBe(2)
    })

    it('is an error of an Async form, and none of an optimiser that was disposed of', async () => {
      const training = new Training(makeBad(NaN), odd)
      const [x, a, b] = [
        [2, 3],
        [1, 3],
        [4, 1],
      ].map((shape) => new Placed(Array(shape[0] * shape[1]).fill(1), shape))
      const operands = { x: x.tensor, a: a.tensor, b: b.tensor }
      training.step(1)
      await expectRefused('ERR_LILY_ARGUMENT', 'got others in 1 step on', () => loraForwardAsync(operands))
      await loraForwardAsync(operands)
      training.step(1)
      training.optimiser.dispose()
      await loraForwardAsync(operands)
    })
  }
})

it('the next step overwrites gradNorm, which may be disposed of', async () => {
  const grad = new Placed([3, 4], [2])
  const optimiser = new AdamW(new Map([['a', { value: new Placed([1, 2], [2]).tensor, grad: grad.tensor }]]), {
    maxNorm: 1,
  })
  const norms = async (...tensors: (Tensor | undefined)[]) =>
    Promise.all(tensors.map(async (norm) => (await norm?.toHost())?.data[0]))
  optimiser.step()
  const { gradNorm } = optimiser
  expect(await norms(gradNorm)).toEqual([5])
  optimiser.gradNorm?.dispose()
  grad.write([6, 8])
  optimiser.step()
  expect(await norms(gradNorm, optimiser.gradNorm)).toEqual([10, 10])
})

it('reads value and grad again in every step', async () => {
  const value = new Placed([1, 2], [2])
  const reads: string[] = []
  let grad = new Placed([1, -1], [2])
  const parameter = {
    get value() {
      reads.push('value')
      return value.tensor
    },
    get grad() {
      reads.push('grad')
      return grad.tensor
    },
  }
  const optimiser = new AdamW(new Map<string, TrainableParameter>([['a', parameter]]), {
    lr: 0.5,
    weightDecay: 0,
    eps: 0,
  })
  expect(reads).toEqual(['value'])
  optimiser.step()
  expect(reads).toEqual(['value', 'value', 'grad'])
  expect([...(await value.read())]).toEqual([0.5, 2.5])
  grad = new Placed([1, -1], [2])
  optimiser.step()
  expect(optimiser.stepCount).toBe(2)
  const [first, second] = await value.read()
  expect(first).toBeCloseTo(0, 6)
  expect(second).toBeCloseTo(3, 6)
})

describe('zeroGrad', () => {
  it('zeroes the gradients of all groups, and nothing else', async () => {
    const specs = [{ shape: [2, 3], margin: 3 }, { shape: [5], dtype: 'bfloat16', margin: 1 }, { shape: [0] }] as const
    const training = new Training(makeTrained(specs), { groups: [{ match: ['p0'], lr: 1 }] })
    const { optimiser, grads } = training
    training.step(0)
    const [before, moments] = [await training.read(), await training.moments()]
    optimiser.zeroGrad()
    for (const [name, grad] of grads) {
      const numbers = await grad.read() // checks the margins
      expectSameBits(name, numbers, new Float32Array(numbers.length))
    }
    for (const [name, data] of Object.entries(await training.read())) expectSameBits(name, data, before[name])
    expect(await training.moments()).toEqual(moments)
    expect(optimiser.stepCount).toBe(1)
  })

  it('calls the method of a parameter that has one, and does not read its gradient', async () => {
    const [value, calls] = [new Placed([1], [1]), [] as unknown[]]
    const own = {
      value: value.tensor,
      get grad(): TensorLike {
        throw new Error('is read')
      },
      zeroGrad() {
        calls.push(this)
      },
    }
    const parameters = new Map<string, TrainableParameter>([['a', own]])
    const optimiser = new AdamW(parameters)
    optimiser.zeroGrad()
    expect(calls).toEqual([own])
    parameters.set('a', { value: value.tensor, grad: value.tensor, zeroGrad: 1 as never })
    await expectRefused('ERR_LILY_ARGUMENT', 'a.zeroGrad: expected a function', () => {
      optimiser.zeroGrad()
    })
  })

  const withMethod = (zeroGrad: (grad: Float32Array) => void) => {
    const own = { data: Float32Array.of(1, 2), shape: [2] }
    const plain = { data: Float32Array.of(3, 4), shape: [2] }
    const value = () => tensor(new Float32Array(2), [2])
    const parameters = new Map<string, TrainableParameter>([
      ['plain', { value: value(), grad: plain }],
      ['own', { value: value(), grad: own, zeroGrad: () => zeroGrad(plain.data) }],
    ])
    return { optimiser: new AdamW(parameters), plain }
  }

  it('fills no gradient if a method of a parameter throws', async () => {
    const detached = new LilyError('ERR_LILY_ARGUMENT', 'own.grad: its ArrayBuffer is detached')
    const { optimiser, plain } = withMethod(() => {
      throw detached
    })
    await expectRefused('ERR_LILY_ARGUMENT', 'own.grad', () => {
      optimiser.zeroGrad()
    })
    expect([...plain.data]).toEqual([3, 4])
  })

  it('reports a gradient that a method of a parameter transfers', async () => {
    const { optimiser } = withMethod(({ buffer }) => structuredClone(buffer, { transfer: [buffer as ArrayBuffer] }))
    await expectRefused('ERR_LILY_ARGUMENT', 'plain.grad: its ArrayBuffer is detached', () => {
      optimiser.zeroGrad()
    })
  })
})

describe('rejects', () => {
  const good = () => new Training(makeTrained([{ shape: [2, 3] }, { shape: [4], dtype: 'bfloat16' }]), { maxNorm: 1 })
  const place = (...shape: number[]) => new Placed(new Float32Array(shape.reduce((p, n) => p * n, 1)), shape).tensor

  it.each<[string, string, AdamWOptions]>([
    ['lr', 'lr: expected a finite number of at least 0, got -1', { lr: -1 }],
    ['lr', 'lr: expected a finite number of at least 0, got NaN', { lr: NaN }],
    ['lr', 'lr: expected a finite number of at least 0, got 1e+39', { lr: 1e39 }],
    ['eps', 'eps: expected', { eps: -1e-8 }],
    ['weightDecay', 'weightDecay: expected', { weightDecay: Infinity }],
    ['maxNorm', 'leave it out', { maxNorm: 0 }],
    ['maxNorm', 'maxNorm', { maxNorm: NaN }],
    ['maxNorm', 'maxNorm: expected a number above 0, got 1e-46', { maxNorm: 1e-46 }],
    [
      'onNonFinite',
      "onNonFinite: expected one of 'error', 'skip', 'ignore', got 'raise'",
      { onNonFinite: 'raise' as never },
    ],
    ['betas', 'betas: expected two numbers in [0, 1), got [0.9, 1]', { betas: [0.9, 1] }],
    ['betas', 'betas', { betas: [-0.1, 0.9] }],
    ['betas', 'betas', { betas: [0.9] as never }],
    ['an unknown name', 'weight_decay: is not a property of options', { weight_decay: 1 } as never],
    ['groups', 'groups: expected an array', { groups: {} as never }],
    [
      'a group',
      'learningRate: is not a property of groups[0]',
      { groups: [{ match: ['p0'], learningRate: 1 } as never] },
    ],
    ['a rate', 'groups[1].lr', { groups: [{ match: ['p0'] }, { match: ['p1'], lr: -1 }] }],
    ['a name', "expected names of parameters, such as 'p0', got 'q'", { groups: [{ match: ['q'] }] }],
    ['no name', 'groups[0].match', { groups: [{ match: [] }] }],
    ['a name twice', "groups[0].match: expected each name once, got 'p0' twice", { groups: [{ match: ['p0', 'p0'] }] }],
    ['a pattern', 'expected a match among 2 parameters', { groups: [{ match: /lily_B/ }] }],
    ['a string', 'groups[0].match', { groups: [{ match: 'p0' as never }] }],
    [
      'a function that returns something else than a boolean',
      'groups[0].match: expected a function that returns true or false, got an array of 1',
      { groups: [{ match: (name) => (name === 'p0' || name.match(/p1/)) as boolean }] },
    ],
    [
      'two groups',
      "expected no parameter of an earlier group, got 'p1'",
      { groups: [{ match: /p/ }, { match: ['p1'] }] },
    ],
  ])('options: %s', async (_, message, options) => {
    const { parameters } = good()
    await expectRefused('ERR_LILY_ARGUMENT', message, () => new AdamW(parameters, options))
  })

  it('invalid parameters', async () => {
    const make = (parameters: unknown) => () => new AdamW(parameters as Map<string, TrainableParameter>)
    await expectRefused('ERR_LILY_ARGUMENT', 'expected a Map', make({}))
    await expectRefused('ERR_LILY_ARGUMENT', 'at least one', make(new Map()))
    await expectRefused('ERR_LILY_ARGUMENT', 'strings as keys', make(new Map([[1, {}]])))
    await expectRefused('ERR_LILY_ARGUMENT', 'a: expected a parameter', make(new Map([['a', null]])))
    await expectRefused('ERR_LILY_ARGUMENT', 'a.value', make(new Map([['a', {}]])))
    const bytes = { data: new Uint8Array(2), shape: [2] }
    await expectRefused('ERR_LILY_DTYPE', 'a.value', make(new Map([['a', { value: bytes }]])))
  })

  const changes: [string, string, string, (training: Training) => void][] = [
    [
      'another shape',
      'ERR_LILY_SHAPE',
      'p0.value: expected [2, 3], got [6]',
      ({ parameters }) => (parameters.get('p0')!.value = place(6)),
    ],
    [
      'a gradient of another shape',
      'ERR_LILY_SHAPE',
      'p0.grad: expected [2, 3], got [3, 2]',
      ({ parameters }) => (parameters.get('p0')!.grad = place(3, 2)),
    ],
    [
      'no gradient',
      'ERR_LILY_ARGUMENT',
      'p0.grad: is required',
      ({ parameters }) => (parameters.get('p0')!.grad = undefined as never),
    ],
    [
      'a gradient of another type',
      'ERR_LILY_DTYPE',
      'p1.grad: expected bfloat16 or float32, got float16',
      ({ parameters }) => (parameters.get('p1')!.grad = new Placed([0, 0, 0, 0], [4], 'float16').tensor),
    ],
    [
      'a removed parameter',
      'ERR_LILY_ARGUMENT',
      'expected the 2 parameters',
      ({ parameters }) => parameters.delete('p1'),
    ],
    [
      'a parameter with another name',
      'ERR_LILY_ARGUMENT',
      'p1: expected a parameter',
      ({ parameters }) => {
        parameters.set('q', parameters.get('p1')!)
        parameters.delete('p1')
      },
    ],
    [
      'shared memory',
      'ERR_LILY_ARGUMENT',
      'overlaps that of p0',
      ({ parameters }) => {
        const { value } = parameters.get('p0')!
        parameters.set('p0', { value, grad: value })
      },
    ],
    [
      'rows with a gap',
      'ERR_LILY_SHAPE',
      'p0.value: expected contiguous rows',
      ({ parameters }) => {
        const wide = place(2, 5)
        parameters.get('p0')!.value = Object.assign({}, wide, { shape: [2, 3], strides: [5, 1] })
      },
    ],
    [
      'a gradient that has rows with a gap',
      'ERR_LILY_SHAPE',
      'p0.grad: expected contiguous rows',
      ({ parameters }) => {
        parameters.get('p0')!.grad = Object.assign({}, place(2, 5), { shape: [2, 3], strides: [5, 1] })
      },
    ],
    [
      'an optimiser that was disposed of',
      'ERR_LILY_DISPOSED',
      'this optimiser',
      ({ optimiser }) => {
        optimiser.dispose()
        optimiser.dispose()
      },
    ],
    [
      'a disposed tensor',
      'ERR_LILY_DISPOSED',
      'p0.grad',
      ({ parameters }) => {
        const grad = tensor(new Float32Array(6), [2, 3])
        grad.dispose()
        parameters.get('p0')!.grad = grad
      },
    ],
  ]
  it.each(changes)('a step with %s writes nothing', async (_, code, message, change) => {
    const training = good()
    const { optimiser } = training
    training.writeGradients(0)
    const before = await training.read()
    change(training)
    await expectRefused(code, message, () => optimiser.step())
    for (const [name, data] of Object.entries(await training.read())) expectSameBits(name, data, before[name])
    expect(optimiser.stepCount).toBe(0)
  })

  it.each(changes)('zeroGrad with %s writes nothing', async (_, code, message, change) => {
    const training = good()
    training.writeGradients(0)
    const before = await Promise.all(Array.from(training.grads.values(), (grad) => grad.read()))
    change(training)
    await expectRefused(code, message, () => {
      training.optimiser.zeroGrad()
    })
    for (const [i, grad] of [...training.grads.values()].entries())
      expectSameBits(`gradient ${i}`, await grad.read(), before[i])
  })

  it('a parameter or a state whose getter disposes of the optimiser', async () => {
    const [one, two] = [good(), good()]
    const { value, grad } = one.parameters.get('p0')!
    const parameter = {
      get value() {
        one.optimiser.dispose()
        return value
      },
      grad,
    }
    one.parameters.set('p0', parameter)
    const before = await one.read()
    await expectRefused('ERR_LILY_DISPOSED', 'this optimiser', () => one.optimiser.step())
    for (const [name, data] of Object.entries(await one.read())) expectSameBits(name, data, before[name])
    const { step, parameters } = two.optimiser.state()
    const state = {
      step,
      get parameters() {
        two.optimiser.dispose()
        return parameters
      },
    }
    await expectRefused('ERR_LILY_DISPOSED', 'this optimiser', () => two.optimiser.load(state))
  })

  it('a rate that is set between steps', async () => {
    const optimiser = good().optimiser as { lr?: number }
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'lr: cannot be set; pass the factor of a schedule to step({ lrScale })',
      () => {
        optimiser.lr = 0.1
      },
    )
    expect(optimiser.lr).toBe(undefined)
  })

  it('invalid options of a step', async () => {
    const { optimiser } = good()
    await expectRefused('ERR_LILY_ARGUMENT', 'lrScale', () => optimiser.step({ lrScale: -1 }))
    const message =
      'lrScale: expected a factor with which every learning rate is finite in float32, got 3e+38 for the rate'
    const fast = new AdamW(good().parameters, { lr: 0.1, groups: [{ match: ['p0'], lr: 2 }] })
    await expectRefused('ERR_LILY_ARGUMENT', message, () => fast.step({ lrScale: 3e38 }))
    await expectRefused('ERR_LILY_ARGUMENT', 'lr: is not a property of options', () =>
      optimiser.step({ lr: 1 } as never),
    )
    if (backend === 'cpu') await expectRefused('ERR_LILY_ARGUMENT', 'no streams', () => optimiser.step({ stream: 1 }))
  })

  it('the state of another model', async () => {
    const training = good()
    const { optimiser } = training
    training.step(0)
    const { step, parameters } = optimiser.state()
    const { p0, p1 } = parameters
    const before = await training.moments()
    const bad: [string, string, unknown][] = [
      ['ERR_LILY_ARGUMENT', 'state', null],
      ['ERR_LILY_ARGUMENT', 'got an object of type AdamW; pass optimiser.state()', optimiser],
      ['ERR_LILY_ARGUMENT', 'state.step', { step: -1, parameters }],
      ['ERR_LILY_ARGUMENT', 'state.step', { step: 0.5, parameters }],
      ['ERR_LILY_ARGUMENT', 'state.parameters', { step }],
      ['ERR_LILY_ARGUMENT', "an entry for the parameter 'p1'", { step, parameters: { p0 } }],
      ['ERR_LILY_ARGUMENT', "got 'p2'", { step, parameters: { p0, p1, p2: p1 } }],
      [
        'ERR_LILY_SHAPE',
        "state.parameters['p0'].expAvg: expected [2, 3], got [4]",
        { step, parameters: { p0: p1, p1 } },
      ],
      [
        'ERR_LILY_ARGUMENT',
        "state.parameters['p1'].expAvgSq: is required",
        { step, parameters: { p0, p1: { expAvg: p1.expAvg } } },
      ],
      [
        'ERR_LILY_SHAPE',
        "state.parameters['p1'].expAvg: expected at least 16 bytes of data",
        { step, parameters: { p0, p1: { ...p1, expAvg: { data: new Float32Array(3), shape: [4] } } } },
      ],
      [
        'ERR_LILY_DTYPE',
        "state.parameters['p1'].expAvg",
        { step, parameters: { p0, p1: { ...p1, expAvg: new Placed([0, 0, 0, 0], [4], 'float16').tensor } } },
      ],
    ]
    for (const [code, message, state] of bad) await expectRefused(code, message, () => optimiser.load(state as never))
    expect(await training.moments()).toEqual(before)
    expect(optimiser.stepCount).toBe(1)
  })

  if (backend === 'cuda') {
    it('parameters on different devices', async () => {
      const onHost = { value: tensor([1], [1]), grad: tensor([1], [1]) }
      const { parameters } = good()
      await expectRefused(
        'ERR_LILY_DEVICE',
        'h.value: expected device cuda:0',
        () => new AdamW(new Map([...parameters, ['h', onHost]])),
      )
      const moved: TrainableParameter = { ...onHost }
      const optimiser = new AdamW(new Map([['h', moved]]))
      const state = new AdamW(new Map<string, TrainableParameter>([['h', { value: place(1), grad: place(1) }]])).state()
      await expectRefused('ERR_LILY_DEVICE', 'toHost()', () => optimiser.load(state))
      Object.assign(moved, { value: place(1), grad: place(1) })
      await expectRefused('ERR_LILY_DEVICE', "expected device cpu:0, as the optimiser's state has", () =>
        optimiser.step(),
      )
    })
  }
})
