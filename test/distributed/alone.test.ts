/**
 * lily-kernels/mpi in a process that no launcher has started: a world of one, in which arguments are checked and nothing is
 * exchanged. The state of the module passes through all of its stages, from test to test.
 *
 * @project cpu
 */
import { describe, expect, expectTypeOf, it, test, vi } from 'vitest'
import { AdamW, LilyModel, tensor, type TrainableParameter } from '../../lib/index.js'
import * as mpi from '../../lib/mpi/index.js'
import { expectRefused } from '../refusals/refused.js'

const config = { r: 2, numB: 2, targetModules: ['q'], dropout: 0.5 }
const layers = [0, 1].map((i) => ({ name: `layers.${i}.q`, inFeatures: 4, outFeatures: 3 }))
const newModel = (seed = 1) => LilyModel.create({ layers, config, seed })
const parameter = () => ({ value: tensor([1, 2, 3], [3]), grad: tensor([4, 5, 6], [3]) }) satisfies TrainableParameter

const operations: [string, () => Promise<unknown>][] = [
  ['averageGradients', () => mpi.averageGradients(newModel())],
  ['broadcast', () => mpi.broadcast(newModel())],
  ['allGather', () => mpi.allGather(1)],
  ['barrier', () => mpi.barrier()],
]

test.each([...operations, ['finalize', () => mpi.finalize()] as const])(
  '%s is refused before init',
  async (name, call) => {
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      `${name}(): expected a process that is connected; await init() first`,
      call,
    )
  },
)

test('init', async () => {
  await expectRefused('ERR_LILY_ARGUMENT', 'timeout: expected an integer', () => mpi.init({ timeout: 0 }))
  await expectRefused('ERR_LILY_ARGUMENT', 'timeOut: is not a property of options (did you mean timeout?)', () =>
    mpi.init({ timeOut: 1 } as never),
  )
  const started = mpi.init({ timeout: 5 }) // an operation need not wait for it
  expect(await mpi.allGather('x')).toEqual(['x'])
  const world = await started
  expect(world).toEqual({ rank: 0, size: 1, library: null })
  expect(await mpi.init()).toBe(world)
  expect(await mpi.init({ timeout: 5 })).toBe(world)
  await expectRefused('ERR_LILY_ARGUMENT', 'timeout: expected 5, as in the first call of init(), got 6', () =>
    mpi.init({ timeout: 6 }),
  )
  expect(process.listenerCount('uncaughtExceptionMonitor'), 'a process alone may end as it likes').toBe(0)
})

describe('averageGradients', () => {
  it('changes nothing', async () => {
    const [model, other] = [newModel(), parameter()]
    for (const { grad } of model.parameters().values()) grad.data.fill(3)
    await mpi.averageGradients(model, { weight: 7 })
    await mpi.averageGradients(new Map([['p', other]]), { weight: 'sum', bucketBytes: 4 })
    for (const { grad } of model.parameters().values()) expect(new Set(grad.data)).toEqual(new Set([3]))
    expect([...other.grad.data]).toEqual([4, 5, 6])
  })

  const refused = (code: string, message: string, of: unknown, options?: object) =>
    expectRefused(`ERR_LILY_${code}`, message, () => mpi.averageGradients(of as never, options))
  const one = (changes: object) => new Map([['p', { ...parameter(), ...changes }]])

  it('refuses other arguments', async () => {
    await refused('ARGUMENT', 'of: expected a LilyModel, a LoraModel or model.parameters(), got 1', 1)
    await refused(
      'ARGUMENT',
      'of: expected a LilyModel, a LoraModel or model.parameters(), got an object of type AdamW',
      new AdamW(one({})),
    )
    await refused('ARGUMENT', 'expected at least one parameter', new Map())
    await refused('ARGUMENT', 'weights: is not a property of options (did you mean weight?)', one({}), { weights: 1 })
    for (const weight of [-1, NaN, Infinity, '1', null, 2 ** 53])
      await refused('ARGUMENT', 'weight: expected the number of tokens', one({}), { weight })
    for (const bucketBytes of [0, 3, 1.5, '4', 2 ** 31])
      await refused('ARGUMENT', 'bucketBytes: expected an integer', one({}), { bucketBytes })
    await refused('ARGUMENT', 'weight: the weights of all ranks are 0', one({}), { weight: 0 })
  })

  it('refuses other gradients', async () => {
    // test/optimiser has what else AdamW refuses, by the same function.
    await refused('SHAPE', 'p.grad: expected [3]', one({ grad: tensor([1], [1]) }))
    await refused('DTYPE', 'p.value: expected float32, bfloat16', one({ value: tensor(new Int32Array(3), [3]) }))
    const buffer = Reflect.construct(ArrayBuffer, [12, { maxByteLength: 16 }]) as ArrayBuffer
    await refused(
      'ARGUMENT',
      'p.grad: expected memory that cannot shrink',
      one({ grad: { data: new Float32Array(buffer), shape: [3] } }),
    )
    const data = new Float32Array(3)
    structuredClone(data.buffer, { transfer: [data.buffer] })
    await refused('ARGUMENT', 'p.grad: ', one({ grad: { data, shape: [3] } }))
    const disposed = newModel()
    disposed.dispose()
    await refused('DISPOSED', 'this model is disposed of', disposed)
  })
})

describe('broadcast', () => {
  it('changes nothing', async () => {
    const model = newModel()
    const values = () => Array.from(model.allParameters().values(), ({ value }) => [...value.data])
    const [before, state] = [values(), [...model.dropoutState.data]]
    const { y, saved } = model.layer('layers.0.q').forward({ x: tensor(new Float32Array(8), [2, 4]) })
    await mpi.broadcast(model)
    await mpi.broadcast(new Map([['p', parameter()]]))
    const optimiser = new AdamW(model.parameters())
    await mpi.broadcast(optimiser)
    expect(values()).toEqual(before)
    expect([...model.dropoutState.data].slice(0, 2)).toEqual(state.slice(0, 2))
    model.layer('layers.0.q').backward({ dy: y, saved }) // of a forward before it
    expect(optimiser.stepCount).toBe(0)
  })

  it('refuses other arguments', async () => {
    const refused = (code: string, message: string, of: unknown) =>
      expectRefused(`ERR_LILY_${code}`, message, () => mpi.broadcast(of as never))
    await refused(
      'ARGUMENT',
      'of: expected a LilyModel, a LoraModel or model.parameters(), or an AdamW, got null',
      null,
    )
    await refused(
      'DTYPE',
      'p.value: expected float32',
      new Map([['p', { ...parameter(), value: tensor(new Int32Array(3), [3]) }]]),
    )
    const optimiser = new AdamW(new Map([['p', parameter()]]))
    optimiser.dispose()
    await refused('DISPOSED', 'this optimiser is disposed of', optimiser)
  })
})

describe('allGather', () => {
  it('copies the value', async () => {
    const value = { loss: 1.5, names: new Map([['a', Float32Array.of(1, 2)]]), none: undefined }
    const all = await mpi.allGather(value)
    expectTypeOf(all).toEqualTypeOf<(typeof value)[]>()
    expect(all).toEqual([value])
    expect(all[0]).not.toBe(value)
  })

  it('refuses what cannot be copied', async () => {
    await expectRefused('ERR_LILY_ARGUMENT', 'value: expected a value that can be copied', () => mpi.allGather(() => 1))
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'value: expected a small value, got an object of type Tensor; pass its data',
      () => mpi.allGather(tensor([1], [1])),
    )
  })
})

test('AdamW with the module as its engine takes the same steps as without', async () => {
  const [alone, together] = [newModel(), newModel()]
  const optimisers = [
    new AdamW(alone.parameters(), { maxNorm: 1 }),
    new AdamW(together.parameters(), { maxNorm: 1, distributed: mpi }),
  ] as const
  expectTypeOf(() => optimisers[1].step()).returns.toEqualTypeOf<Promise<void>>()
  expectTypeOf(() => optimisers[0].step()).returns.toBeVoid()
  for (const model of [alone, together]) for (const { grad } of model.parameters().values()) grad.data.fill(0.5)
  optimisers[0].step()
  await optimisers[1].step({ weight: 12 })
  for (const [name, { value }] of alone.parameters())
    expect(value.data).toEqual(together.parameters().get(name)?.value.data)
})

test('finalize, after which nothing is possible', async () => {
  const order: string[] = []
  const last = mpi.barrier().then(() => order.push('barrier'))
  await mpi.finalize().then(() => order.push('finalize'))
  await last
  expect(order).toEqual(['barrier', 'finalize'])
  await mpi.finalize()
  for (const [name, call] of [...operations, ['init', () => mpi.init()] as const])
    await expectRefused('ERR_LILY_ARGUMENT', `${name}(): is not possible after finalize()`, call)
})

describe('init is refused', () => {
  it.each([
    ['under a launcher where the addon has no MPI', 'PMI_RANK', 'MPI needs the native addon for Linux or macOS'],
    [
      'in tasks of srun that have no launcher',
      'SLURM_STEP_NUM_TASKS',
      'srun has started 2 tasks, and none of MPI; start the job with',
    ],
  ])('%s', async (_, variable, message) => {
    vi.stubEnv(variable, '2')
    vi.resetModules()
    const { register } = await import('../../lib/binding/native.js')
    register({} as never)
    const fresh = await import('../../lib/mpi/index.js')
    const error: unknown = await fresh.init().catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({
      name: 'LilyError',
      code: 'ERR_LILY_BACKEND_UNAVAILABLE',
      message: expect.stringContaining(message) as string,
    })
    await expect(fresh.barrier(), 'later operations say the same').rejects.toBe(error)
    vi.unstubAllEnvs()
  })
})
