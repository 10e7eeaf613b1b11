/**
 * The inputs of ONNX models with an adapter: their types, shapes and memory, and which adapters a graph accepts.
 * test/interop/onnx-graphs.test.ts shows that graphs compute the adapter from their values.
 *
 * @project cpu
 */
import { describe, expect, it, vi } from 'vitest'
import { type AdapterModel, LilyModel, type LilyConfigOptions, LoraModel } from '../../lib/index.js'
import { inject } from '../../lib/onnx/index.js'
import { expectRefused } from '../refusals/refused.js'
import { unpack } from '../support/dtypes.js'
import { baseModel, D_IN, LAYERS, lily, lora } from '../support/onnx-layers.js'

const base = baseModel()

function matrix(rows: number, columns: number, element: (i: number, j: number) => number) {
  const data = Float32Array.from({ length: rows * columns }, (_, k) => element(Math.floor(k / columns), k % columns))
  return { type: 'float32', location: 'cpu', dims: [rows, columns], data }
}

const feedsOf = async (model: AdapterModel) => (await inject(base, model)).feeds(model)

const [q0, v0, q1, q2] = LAYERS.map(({ name }) => name)

describe('values', () => {
  it('are float32 of parameters of 16 bits', async () => {
    const config = { r: 1, numB: 2, routing: 'token', targetModules: ['v'], initWeights: false } as const
    const model = LilyModel.create({ layers: LAYERS, config, dtype: 'bfloat16', seed: 3 })
    const { a } = model.layer(v0)
    const bits = a.value.data as Uint16Array
    const values = new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer)
    expect((await feedsOf(model))[a.name]).toEqual(matrix(D_IN, 1, (i) => values[i]))
  })

  it('are float32 of LoRA of 16 bits', async () => {
    const model = LoraModel.create({
      layers: LAYERS,
      config: { r: 1, targetModules: ['v'] },
      dtype: 'float16',
      seed: 3,
    })
    const { a } = model.layer(v0)
    expect((await feedsOf(model))[a.name]).toEqual(
      matrix(D_IN, 1, (i) => unpack('float16', a.value.data as Uint16Array)[i]),
    )
  })

  it('of which an allocation fails are an error of the package', async () => {
    for (const [model, array] of [
      [lily({ routing: 'learned' }), 'Float64Array'],
      [lora(2), 'Float32Array'],
    ] as const) {
      const injected = await inject(base, model)
      const Original = globalThis[array] as new (length: number) => object
      vi.stubGlobal(
        array,
        class extends Original {
          constructor(length: number) {
            super(length)
            throw new RangeError('Array buffer allocation failed')
          }
        },
      )
      try {
        await expectRefused('ERR_LILY_OUT_OF_MEMORY', 'weight: an allocation', () => injected.feeds(model))
      } finally {
        vi.unstubAllGlobals()
      }
    }
  })

  it('have memory of their own', async () => {
    const model = lily({ routing: 'uniform', strideA: 3 })
    const injected = await inject(base, model)
    const [first, again] = [await injected.feeds(model), await injected.feeds(model)]
    const buffers = [...Object.values(first), ...Object.values(again)].map(({ data }) => data.buffer)
    expect(new Set(buffers).size).toBe(buffers.length)
    for (const { data } of Object.values(first)) {
      expect(data.buffer).toBeInstanceOf(ArrayBuffer)
      expect(data.byteLength).toBe(data.buffer.byteLength)
      data.fill(NaN)
    }
    expect(await injected.feeds(model)).toEqual(again)
  })

  it('are those of a class, such as ort.Tensor', async () => {
    class Tensor {
      constructor(
        readonly type: string,
        readonly data: Float32Array,
        readonly dims: readonly number[],
      ) {}
      dispose() {}
    }
    const model = lora(2)
    const injected = await inject(base, model)
    const run = (feeds: Record<string, { dispose(): void }>) => Object.keys(feeds).length
    expect(run(await injected.feeds(model, Tensor))).toBe(injected.inputs.length)
    // @ts-expect-error: plain objects are no tensors, whatever the caller expects
    run(await injected.feeds(null))
    const [plain, made] = [await injected.feeds(model), await injected.feeds(model, Tensor)]
    for (const [name, { type, data, dims }] of Object.entries(plain))
      expect(made[name]).toEqual(new Tensor(type, data, dims))
    await expectRefused('ERR_LILY_ARGUMENT', 'Tensor', () => injected.feeds(model, {} as never))
  })
})

describe('shapes', () => {
  const numbers = (config: Partial<LilyConfigOptions>) =>
    inject(base, lily(config)).then(({ inputs }) => inputs.slice(0, 3))

  it('have names for sizes that differ between adapters', async () => {
    expect((await inject(base, lora(3))).inputs.slice(0, 2)).toEqual([
      { name: `${q0}.lora_A.weight`, dims: [D_IN, `lily/r of ${q0}`] },
      { name: `${q0}.lora_B.weight`, dims: [`lily/r of ${q0}`, 7] },
    ])
    const [a, router] = [
      { name: `${q0}.lily_A.weight`, dims: [D_IN, 'lily/r'] },
      { name: `${q0}.lily_router.weight`, dims: ['lily/r', 'lily/E'] },
    ]
    const b = `${q0}.lily_B.weight`
    expect(await numbers({ routing: 'token' })).toEqual([a, router, { name: b, dims: ['lily/E*r', 7] }])
    expect(await numbers({ routing: 'batch' })).toEqual([a, router, { name: b, dims: ['lily/E', 'lily/r*7'] }])
  })

  it('of the base model are the smallest, with zeros', async () => {
    for (const model of [
      lora(3),
      lily({ routing: 'token' }),
      lily({ routing: 'batch' }),
      lily({ routing: 'learned' }),
    ]) {
      const injected = await inject(base, model)
      const { inputs } = injected
      const base0 = await injected.feeds(null)
      expect(Object.keys(base0)).toEqual(inputs.map(({ name }) => name))
      for (const { name, dims } of inputs) {
        const sizes = dims.map((size) => (typeof size === 'number' ? size : Number(/\*(\d+)$/.exec(size)?.[1] ?? 1)))
        expect(base0[name]).toEqual(matrix(sizes[0], sizes[1], () => 0))
      }
    }
  })
})

describe('another adapter', () => {
  const some = LAYERS.filter(({ name }) => name !== v0)
  const refused = async (message: string, injectedModel: AdapterModel, model: AdapterModel) => {
    const injected = await inject(base, injectedModel)
    const error = await expectRefused('ERR_LILY_ARGUMENT', message, () => injected.feeds(model))
    expect(error.argument).toBe('model')
  }

  it('may have another rank, other experts, and fewer layers: the others get zeros', async () => {
    const injected = await inject(base, lily({ routing: 'token' }))
    const feeds = await injected.feeds(lily({ routing: 'token', r: 7, numB: 2 }, some))
    expect(Object.keys(feeds)).toEqual(injected.inputs.map(({ name }) => name))
    expect(feeds[`${v0}.lily_A.weight`]).toEqual(matrix(D_IN, 7, () => 0))
    expect(feeds[`${v0}.lily_B.weight`]).toEqual(matrix(14, 9, () => 0))
    expect(feeds[`${q0}.lily_B.weight`]).toMatchObject({ dims: [14, 7] })
    const ofLora = await inject(base, lora(3))
    expect((await ofLora.feeds(lora(4, {}, some)))[`${v0}.lora_A.weight`]).toEqual(matrix(D_IN, 1, () => 0))
    expect(await ofLora.feeds(lily({ routing: 'uniform', r: 5 }, some))).toMatchObject({
      [`${q0}.lora_A.weight`]: { dims: [D_IN, 5] },
    })
  })

  it('may share more', async () => {
    const injected = await inject(base, lily({ routing: 'sequence', strideA: 1 }))
    const model = lily({ routing: 'sequence', strideA: 3 })
    const feeds = await injected.feeds(model)
    for (const name of [q0, q1, q2]) expect(feeds[`${name}.lily_A.weight`]).toEqual(feeds[`${q0}.lily_A.weight`])
  })

  it('may lack a layer that shares one of its matrices', async () => {
    const injected = await inject(base, lily({ routing: 'batch', strideA: 1 }))
    const model = lily({ routing: 'batch', strideA: 1, r: 2 }, LAYERS.slice(0, 3))
    const feeds = await injected.feeds(model)
    expect(feeds[`${q2}.lily_A.weight`]).toEqual(matrix(D_IN, 2, () => 0))
    expect(feeds[`${q0}.lily_B.weight`].data.every((value) => value !== 0)).toBe(true)
  })

  it('must share as the graph does', async () => {
    await refused(
      `one "${q0}.lily_A.weight" for the layers "${q0}", "${q1}", "${q2}" (strideA), as the injected model has, got 3`,
      lily({ routing: 'token', strideA: 3 }),
      lily({ routing: 'token', strideA: 1 }),
    )
    await refused(
      'shares',
      lily({ routing: 'token', strideA: 3 }),
      lily({ routing: 'token', strideA: 3 }, LAYERS.slice(0, 3)),
    )
  })

  it('must have layers of the graph, of its sizes', async () => {
    await refused(`got one of "${q2}"`, lora(1, {}, LAYERS.slice(0, 3)), lora(1))
    await refused('[12, 7]', lora(1), lora(1, {}, [{ ...LAYERS[0], outFeatures: 6 }]))
  })

  it('must have the mixture of the graph', async () => {
    await refused("routing 'token'", lily({ routing: 'token' }), lily({ routing: 'batch' }))
    await refused("pool 'logits'", lily({ routing: 'batch', pool: 'logits' }), lily({ routing: 'batch' }))
    await refused("activation 'relu'", lily({ routing: 'uniform', activation: 'relu' }), lora(1))
    await refused('a router', lily({ routing: 'token' }), lora(1))
    await refused('constant weights', lora(1), lily({ routing: 'batch' }))
    const frozen = lily({ routing: 'token' })
    frozen.freeze('uniform')
    await refused('a router', lily({ routing: 'token' }), frozen)
  })

  it('must be a model, in use, of a graph with inputs', async () => {
    const model = lora(1)
    const injected = await inject(base, model)
    await expectRefused('ERR_LILY_ARGUMENT', 'or null for the base model', () => injected.feeds(undefined as never))
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => injected.feeds({} as never))
    const baked = await inject(base, model, { bake: true })
    for (const each of [model, null])
      await expectRefused('ERR_LILY_ARGUMENT', 'inject without bake', () => baked.feeds(each))
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'dispose', () => injected.feeds(model))
  })
})
