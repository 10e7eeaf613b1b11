/**
 * AdamW with an engine of data parallelism. The ranks here are in one process, and the engine averages in float64; test/mpi has
 * those of mpirun.
 *
 * @project cpu wasm webgpu cuda
 */
import { describe, expect, expectTypeOf, it } from 'vitest'
import {
  AdamW,
  type AdamWOptions,
  type AverageOptions,
  type Distributed,
  LilyModel,
  type Tensor,
  tensor,
  type TensorLike,
  type TrainableParameter,
} from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { checkHistory } from '../support/adamw.js'
import { backend } from '../support/backend.js'
import { expectSameBits } from '../support/compare.js'
import { type Float, pack, unpack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { type History, Placed, type TrainedParameter } from '../support/training.js'

/** One of `count` ranks: its numbers, and its optimiser. */
interface Rank {
  readonly values: ReadonlyMap<string, Placed>
  readonly grads: ReadonlyMap<string, Placed>
  readonly optimiser: AdamW<Distributed>
}

/** Averages the gradients of ranks once all of them have asked for it. */
class Engine {
  readonly weights: AverageOptions['weight'][] = []
  #waiting: (() => void)[] = []
  readonly #grads: ReadonlyMap<string, Placed>[] = []

  constructor(readonly count: number) {}

  of(grads: ReadonlyMap<string, Placed>): Distributed {
    const rank = this.#grads.push(grads) - 1
    return {
      averageGradients: async (_, { weight } = {}) => {
        this.weights[rank] = weight
        const all = new Promise<void>((resolve) => this.#waiting.push(resolve))
        if (this.#waiting.length === this.count) {
          await this.#average()
          for (const resolve of this.#waiting) resolve()
          this.#waiting = []
        }
        await all
      },
    }
  }

  async #average(): Promise<void> {
    for (const name of this.#grads[0].keys()) {
      const placed = this.#grads.map((grads) => grads.get(name)!)
      const average = averageOf(
        await Promise.all(placed.map((each) => each.read())),
        this.weights.map((weight) => (weight === 'sum' ? 1 : weight!)),
        this.weights[0] === 'sum',
      )
      for (const each of placed) each.write(average)
    }
  }
}

function averageOf(all: readonly ArrayLike<number>[], weights: readonly number[], isSum = false): Float64Array {
  const total = isSum ? 1 : weights.reduce((sum, weight) => sum + weight, 0)
  return Float64Array.from(all[0], (_, i) => all.reduce((sum, each, r) => sum + weights[r] * each[i], 0) / total)
}

function ranksOf(
  trained: readonly (readonly TrainedParameter[])[],
  engine: Engine,
  options: AdamWOptions = {},
): Rank[] {
  return trained.map((parameters) => {
    const types = ({ dtype = 'float32', gradDtype = dtype }: TrainedParameter) => [dtype, gradDtype] as const
    const values = new Map(parameters.map((p) => [p.name, new Placed(p.start, p.shape, types(p)[0])]))
    const grads = new Map(
      parameters.map((p) => [p.name, new Placed(new Float32Array(p.start.length), p.shape, types(p)[1])]),
    )
    const both = parameters.map(({ name }) => {
      const of = (placed: ReadonlyMap<string, Placed>): TensorLike => placed.get(name)!.tensor
      return [name, { value: of(values), grad: of(grads) }] as const
    })
    const { groups, ...others } = options
    return { values, grads, optimiser: new AdamW(new Map(both), { ...others, groups, distributed: engine.of(grads) }) }
  })
}

async function read(placed: ReadonlyMap<string, Placed>): Promise<Record<string, Float32Array>> {
  const entries = Array.from(placed, async ([name, each]) => [name, await each.read()] as const)
  return Object.fromEntries(await Promise.all(entries))
}

const types: { dtype: Float; gradDtype: Float }[] = [
  { dtype: 'float32', gradDtype: 'float32' },
  { dtype: 'bfloat16', gradDtype: 'bfloat16' },
  { dtype: 'float16', gradDtype: 'float32' },
]
const STEPS = 3

/** The same parameters on each rank, with gradients of its own. */
function makeTrained(ranks: number): TrainedParameter[][] {
  const shapes = [[7], [3, 5], [0, 4], [33, 31]]
  const starts = shapes.map((shape, i) =>
    gaussian(
      randomFrom(i),
      shape.reduce((product, size) => product * size, 1),
    ),
  )
  return Array.from({ length: ranks }, (_, rank) => {
    const random = randomFrom(100 + rank)
    return shapes.map((shape, i) => ({
      name: `p${i}`,
      shape,
      ...types[i % types.length],
      start: starts[i],
      gradients: Array.from({ length: STEPS }, () => gaussian(random, starts[i].length)),
    }))
  })
}

describe('ranks that step together', () => {
  it.each<[string, AdamWOptions, (number | 'sum')[]]>([
    ['equal shares', {}, [1, 1]],
    ['shares of unequal size, one of them empty, clipped', { maxNorm: 1, lr: 0.05 }, [5, 0, 12]],
    ['sums, and groups', { lr: 0.02, groups: [{ match: ['p0', 'p3'], lr: 0.3, weightDecay: 0 }] }, ['sum', 'sum']],
  ])('%s', async (_, options, weights) => {
    const trained = makeTrained(weights.length)
    const ranks = ranksOf(trained, new Engine(weights.length), options)
    const history: History = { values: [], norms: [], expAvg: {}, expAvgSq: {} }
    const schedule = (step: number) => [1, 0.5, 2][step]
    for (let step = 0; step < STEPS; step++) {
      for (const [r, { grads }] of ranks.entries())
        for (const { name, gradients } of trained[r]) grads.get(name)!.write(gradients[step])
      await Promise.all(
        ranks.map(({ optimiser }, r) => optimiser.step({ weight: weights[r], lrScale: schedule(step) })),
      )
      const values = await read(ranks[0].values)
      history.values.push(values)
      for (const rank of ranks.slice(1))
        for (const [name, data] of Object.entries(await read(rank.values))) expectSameBits(name, data, values[name])
      const norm = await ranks[0].optimiser.gradNorm?.toHost()
      if (norm !== undefined) history.norms.push(norm.data[0])
    }
    for (const [name, { expAvg, expAvgSq }] of Object.entries(ranks[0].optimiser.state().parameters)) {
      history.expAvg[name] = (await expAvg.toHost()).data as Float32Array
      history.expAvgSq[name] = (await expAvgSq.toHost()).data as Float32Array
    }
    const isSum = weights[0] === 'sum'
    const shares = weights.map((weight) => (weight === 'sum' ? 1 : weight))
    const averaged = trained[0].map((parameter, i) => {
      const rounded = (g: ArrayLike<number>) => unpack(parameter.gradDtype!, pack(parameter.gradDtype!, g))
      const gradients = parameter.gradients.map((_, step) =>
        averageOf(
          trained.map((own) => rounded(own[i].gradients[step])),
          shares,
          isSum,
        ),
      )
      return { ...parameter, gradients }
    })
    checkHistory(history, averaged, options, schedule)
  })

  it.each(['skip', 'error'] as const)(
    "'%s' applies on all ranks if one has a gradient that is not finite",
    async (onNonFinite) => {
      const trained = makeTrained(2)
      const ranks = ranksOf(trained, new Engine(2), { onNonFinite })
      const before = await read(ranks[0].values)
      ranks[1].grads.get('p1')!.write(Float32Array.of(1, NaN, ...new Float32Array(13)))
      const outcomes = await Promise.allSettled(
        ranks.map(async ({ optimiser, values }) => {
          await optimiser.step({ weight: 1 })
          await read(values) // of a device: reports what steps have found
          await optimiser.gradNorm?.toHost()
          for (const { expAvg } of Object.values(optimiser.state().parameters)) await expAvg.toHost()
        }),
      )
      const rejected = outcomes.filter(({ status }) => status === 'rejected').length
      // Both ranks are on one device, whose next promise reports for both.
      if (onNonFinite === 'skip') expect(rejected).toBe(0)
      else if (backend === 'cpu') expect(rejected).toBe(2)
      else expect(rejected).toBeGreaterThan(0)
      for (const { optimiser, values } of ranks) {
        expect([optimiser.stepCount, optimiser.skippedSteps]).toEqual([0, 1])
        for (const [name, data] of Object.entries(await read(values))) expectSameBits(name, data, before[name])
      }
    },
  )
})

/** An engine whose promise the test settles. */
class Waiting implements Distributed {
  calls = 0
  resolve: () => void = () => undefined
  reject: (error: Error) => void = () => undefined

  averageGradients(): Promise<void> {
    this.calls++
    return new Promise((resolve, reject) => Object.assign(this, { resolve, reject }))
  }
}

// What follows is about arguments and order, not about numbers.
if (backend === 'cpu') {
  const parameter = () => ({ value: tensor([1, 2, 3], [3]), grad: tensor([1, 1, 1], [3]) })
  const make = (changes: Partial<TrainableParameter> = {}) => {
    const engine = new Waiting()
    const parameters = new Map<string, TrainableParameter>([['p', { ...parameter(), ...changes }]])
    const { value } = parameters.get('p') as { value: Tensor }
    return { engine, parameters, value, optimiser: new AdamW(parameters, { lr: 0.1, distributed: engine }) }
  }

  describe('a step', () => {
    it('is checked before anything is exchanged', async () => {
      const { engine, parameters, optimiser } = make()
      const refused = (code: string, message: string, options?: object) =>
        expectRefused(`ERR_LILY_${code}`, message, () => optimiser.step(options))
      await refused('ARGUMENT', 'weight: expected the number of tokens of this rank', { weight: -1 })
      await refused('ARGUMENT', "weight: expected the number of tokens of this rank, from 0 to 2^53 - 1, or 'sum'", {
        weight: 'mean',
      })
      await refused('ARGUMENT', 'weight: expected the number of tokens of this rank', { weight: 2 ** 53 })
      await refused('ARGUMENT', 'lrScale: expected', { lrScale: -1 })
      await refused('ARGUMENT', 'stream: expected none, since the cpu backend has no streams', { stream: 1n })
      await refused('ARGUMENT', 'weights: is not a property of options (did you mean weight?)', { weights: 1 })
      parameters.set('p', { ...parameter(), grad: tensor([1], [1]) })
      await refused('SHAPE', 'p.grad: expected [3]')
      expect(engine.calls).toBe(0)
    })

    it('is checked again afterwards', async () => {
      const { engine, parameters, value, optimiser } = make()
      const first = optimiser.step()
      parameters.set('p', { value, grad: tensor([1], [1]) })
      engine.resolve()
      await expectRefused('ERR_LILY_SHAPE', 'p.grad: expected [3]', () => first)
      expect([...value.data]).toEqual([1, 2, 3])
      expect(optimiser.stepCount).toBe(0)
    })

    it('gives the engine what must be equal on all ranks', async () => {
      const given: AverageOptions['equal'][] = []
      const averageGradients: Distributed['averageGradients'] = (_, { equal } = {}) => {
        given.push(equal)
        return Promise.resolve()
      }
      const optimiser = new AdamW(new Map(['a', 'b', 'c', 'd'].map((name) => [name, parameter()])), {
        lr: 0.1,
        betas: [0.8, 0.9],
        eps: 1e-6,
        maxNorm: 2,
        groups: [{ match: ['c'], weightDecay: 0.5 }],
        distributed: { averageGradients },
      })
      await optimiser.step({ lrScale: 0.5 })
      await optimiser.step()
      const equal = {
        'a number of steps of': 0,
        'an lrScale of': 0.5,
        'lr and weightDecay of':
          '0.1 and 0.01 for 2 parameters, 0.1 and 0.5 for 1 parameter, 0.1 and 0.01 for 1 parameter',
        'betas of': '0.8 and 0.9',
        'an eps of': 1e-6,
        'a maxNorm of': 2,
        'onNonFinite of': 'error',
      }
      expect(given).toEqual([equal, { ...equal, 'a number of steps of': 1, 'an lrScale of': 1 }])
    })

    it('writes nothing until the gradients are averaged', async () => {
      const { engine, value, optimiser } = make()
      const step = optimiser.step()
      await Promise.resolve()
      expect([...value.data]).toEqual([1, 2, 3])
      expect([optimiser.stepCount, optimiser.state().step]).toEqual([0, 0])
      engine.resolve()
      await step
      expect([...value.data]).not.toEqual([1, 2, 3])
      expect(optimiser.stepCount).toBe(1)
    })

    it('excludes a second one, load() and zeroGrad() until it is done', async () => {
      const { engine, optimiser } = make()
      const state = optimiser.state()
      const step = optimiser.step()
      const message = 'expected no step that waits for other ranks, got one; await the promise of step()'
      await expectRefused('ERR_LILY_ARGUMENT', `step(): ${message}`, () => optimiser.step())
      await expectRefused('ERR_LILY_ARGUMENT', `load(): ${message}`, () => optimiser.load(state))
      await expectRefused('ERR_LILY_ARGUMENT', `zeroGrad(): ${message}`, () => optimiser.zeroGrad())
      engine.resolve()
      await step
      expect(engine.calls).toBe(1)
      optimiser.zeroGrad()
      optimiser.load(state)
    })

    it('fails with the error of the engine, and can be tried again', async () => {
      const { engine, optimiser } = make()
      const first = optimiser.step()
      const error = new Error('the ranks differ')
      engine.reject(error)
      await expect(first).rejects.toBe(error)
      const second = optimiser.step()
      engine.resolve()
      await second
      expect(optimiser.stepCount).toBe(1)
    })

    it('fails if the optimiser is disposed of meanwhile', async () => {
      const { engine, optimiser } = make()
      const step = optimiser.step()
      optimiser.dispose()
      engine.resolve()
      await expectRefused('ERR_LILY_DISPOSED', 'this optimiser is disposed of', () => step)
    })

    it('makes a backward of an earlier forward an error', async () => {
      const layers = [{ name: 'q', inFeatures: 4, outFeatures: 3 }]
      const model = LilyModel.create({
        layers: [...layers, { ...layers[0], name: 'k' }],
        config: { r: 2, numB: 2, targetModules: ['q', 'k'] },
      })
      const optimiser = new AdamW(model.parameters(), { distributed: { averageGradients: () => Promise.resolve() } })
      const { y, saved } = model.layer('q').forward({ x: tensor(new Float32Array(8), [2, 4]) })
      await optimiser.step()
      await expectRefused('ERR_LILY_ARGUMENT', 'optimiser', () => model.layer('q').backward({ dy: y, saved }))
    })
  })

  it('refuses an engine that is none, and a weight without one', async () => {
    const refused = (message: string, distributed: unknown) =>
      expectRefused(
        'ERR_LILY_ARGUMENT',
        message,
        () => new AdamW(new Map([['p', parameter()]]), { distributed: distributed as Distributed }),
      )
    await refused('distributed: expected an engine of data parallelism, got true', true)
    await refused('distributed: expected an engine of data parallelism, got null', null)
    await refused('distributed: expected an engine of data parallelism, got what init() returns; import * as mpi', {
      rank: 0,
      size: 1,
      library: null,
    })
    const alone = new AdamW(new Map([['p', parameter()]]), { distributed: undefined })
    await expectRefused('ERR_LILY_ARGUMENT', 'weight: expected none without other ranks, got 1', () =>
      alone.step({ weight: 1 }),
    )
    alone.step()
    expect(alone.stepCount).toBe(1)
  })

  it('returns a promise by type if there is an engine', () => {
    const { optimiser } = make()
    expectTypeOf(() => optimiser.step()).returns.toEqualTypeOf<Promise<void>>()
    const parameters = new Map([['p', parameter()]])
    expectTypeOf(() => new AdamW(parameters).step()).returns.toBeVoid()
    expectTypeOf(() => new AdamW(parameters, { lr: 1 }).step()).returns.toBeVoid()
    const options: AdamWOptions = { lr: 1 }
    expectTypeOf(() => new AdamW(parameters, options).step()).returns.toBeVoid()
    const together: AdamWOptions<Distributed> = { lr: 1, distributed: new Waiting() }
    expectTypeOf(() => new AdamW(parameters, together).step()).returns.toEqualTypeOf<Promise<void>>()
    expectTypeOf<AdamW<Distributed>>().toExtend<AdamW<Distributed | undefined>>()
    expectTypeOf<AdamW>().toExtend<AdamW<Distributed | undefined>>()
    // @ts-expect-error the options do not know an engine
    const wrong: AdamWOptions = { distributed: new Waiting() }
    expect(wrong).toBeDefined()
  })
}
