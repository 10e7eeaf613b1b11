/** Adapters in ONNX models: what onnxruntime-node computes is compared with the float64 reference. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { ModelProtoSchema, NodeProtoSchema, TensorProto_DataType as DataType, TensorProtoSchema } from 'onnx-buf'
import { describe, expect, it } from 'vitest'
import { node } from '../../bench/workload/onnx.js'
import { type AdapterModel, LilyModel, type LilyConfigOptions } from '../../lib/index.js'
import { inject, injectFile, type InjectedModel, type InjectOptions, readInjected } from '../../lib/onnx/index.js'
import { expectClose } from '../support/compare.js'
import { unpack } from '../support/dtypes.js'
import { withBranches, withExternalData } from '../support/onnx.js'
import { ortOfNode } from '../support/onnx-baked.js'
import {
  B,
  baseModel,
  changed,
  D_IN,
  initializer,
  LAYERS,
  lily,
  lora,
  M,
  mixtures,
  N,
  typed,
  weights,
  x,
} from '../support/onnx-layers.js'
import { outputOf, type Type, updateOf } from '../support/onnx-reference.js'
import type { OrtTensor, Session } from '../support/onnx-sessions.js'
import { Matrix } from '../support/reference.js'
import { temporaryFolder } from '../support/temporary.js'

const ort = ortOfNode()

interface Run {
  type?: Type
  dims?: readonly number[]
  /** [B, N] */
  mask?: readonly number[]
  /** Tokens of earlier calls before those of x. */
  past?: number
  x?: Float32Array
}

const ALL = new Array<number>(M).fill(1)

/** y of a layer with its adapter. */
function expected(model: AdapterModel | null, name: string, { x: given = x, mask, type }: Run): Matrix {
  const layer = LAYERS.find((each) => each.name === name) as (typeof LAYERS)[number]
  const weight = weights.get(name) as Float32Array
  return outputOf({ ...layer, weight }, model, { x: given, sequences: B, mask, type })
}

const sessionOf = async (model: Uint8Array | string) =>
  ort.InferenceSession.create(model, { logSeverityLevel: 4, intraOpNumThreads: 1 })

/** Runs a model, and returns its outputs. */
async function run(session: Session, feeds: object, options: Run = {}): Promise<Record<string, OrtTensor>> {
  const { type = 'float32', dims = [B, N, D_IN], mask = ALL, past = 0, x: given = x } = options
  const tokens = Array.from({ length: B }, (_, b) => [...ALL.slice(0, past), ...mask.slice(b * N, (b + 1) * N)])
  return session.run({
    x: new ort.Tensor(type, typed(type, given), dims),
    mask: new ort.Tensor('int64', BigInt64Array.from(tokens.flat(), BigInt), [B, past + N]),
    ...feeds,
  })
}

/** Compares all outputs of a model. */
async function check(session: Session, feeds: object, model: AdapterModel | null, options: Run = {}): Promise<void> {
  const results = await run(session, feeds, options)
  const { type = 'float32', dims = [B, N, D_IN] } = options
  for (const { name, outFeatures } of LAYERS) {
    const { data, dims: ofY } = results[`y of ${name}`]
    expect(ofY).toEqual([...dims.slice(0, -1), outFeatures])
    // Newer versions of Node.js have a Float16Array.
    const numbers =
      type === 'float16' ? unpack('float16', new Uint16Array(data.buffer, data.byteOffset, data.length)) : data
    expectClose(name, numbers, expected(model, name, options))
  }
}

/** Injects the first model, and compares what the session computes with each of them in turn. */
async function checkAll(
  base: Uint8Array,
  models: readonly [AdapterModel, ...(AdapterModel | null)[]],
  runs: Run = {},
  options: InjectOptions = {},
): Promise<InjectedModel> {
  const injected = await inject(base, models[0], options)
  const session = await sessionOf(injected.bytes)
  for (const model of models) await check(session, await injected.feeds(model), model, runs)
  return injected
}

/** In turn: an adapter, the base, and one of another rank and with other experts. */
const inTurn = (config: Partial<LilyConfigOptions>) => [lily(config), null, lily({ ...config, r: 5, numB: 2 })] as const

// Both sides of the versions that change an operator of the adapter, and the newest.
describe.each([11, 12, 13, 17, 18, 23])('opset %i', (opset) => {
  it('LoRA of two ranks in turn, and the base', async () => {
    await checkAll(baseModel({ opset }), [lora(4), lora(2, { rankPattern: { v: 3 } }), null, lora(9)])
  })

  it.each(Object.entries(mixtures))('Lily: %s', async (_, config) => {
    await checkAll(baseModel({ opset }), inTurn(config))
  })

  it.each(['batch', 'sequence'] as const)('routing %s with a mask', async (routing) => {
    for (const pool of ['probabilities', 'logits'] as const) {
      const mask = ALL.map((_, i) => (i % N < 2 + Math.floor(i / N) ? 1 : 0))
      await checkAll(baseModel({ opset }), inTurn({ routing, pool }), { mask }, { mask: 'mask' })
    }
  })
})

describe.each(Object.entries(mixtures))('Lily: %s', (_, config) => {
  const hasSequences = config.routing === 'sequence'

  it.each(['float16', 'float64'] as const)('in a model of %s', async (type) => {
    await checkAll(baseModel({ type }), inTurn(config), { type })
  })

  // Where test/onnx/inject.test.ts has the refusal of routing 'sequence'.
  if (!hasSequences) {
    it('behind an x of two dimensions', async () => {
      await checkAll(baseModel({ dims: ['M', D_IN] }), inTurn(config), { dims: [M, D_IN] })
    })
  }

  it('behind an x of dimensions that the model does not tell', async () => {
    const base = baseModel({ hidesRank: true })
    const injected = await inject(base, lily(config))
    const session = await sessionOf(injected.bytes)
    const model = lily(config)
    const others = [
      [M, D_IN],
      [B, 1, N, D_IN],
    ]
    for (const dims of [[B, N, D_IN], ...(hasSequences ? [] : others)]) {
      const shape = new ort.Tensor('int64', BigInt64Array.from(dims, BigInt), [dims.length])
      const flat = new ort.Tensor('float32', x, [x.length])
      await check(session, { x: flat, shape, ...(await injected.feeds(model)) }, model, { dims })
    }
    for (const dims of hasSequences
      ? [
          [M, D_IN],
          [B, B, 1, D_IN],
          [1, B, N, D_IN],
        ]
      : []) {
      const size = dims.reduce((product, each) => product * each)
      const shape = new ort.Tensor('int64', BigInt64Array.from(dims, BigInt), [dims.length])
      const flat = new ort.Tensor('float32', x.slice(0, size), [size])
      await expect(run(session, { x: flat, shape, ...(await injected.feeds(model)) })).rejects.toThrow()
    }
  })

  it('baked', async () => {
    const model = lily(config)
    const injected = await inject(baseModel(), model, { bake: true })
    expect(injected.inputs).toEqual([])
    await check(await sessionOf(injected.bytes), {}, model)
  })
})

describe('a mask', () => {
  const mask = ALL.map((_, i) => (Math.floor(i / N) === 1 ? 0 : i % N === 0 ? 0 : 1))

  it.each(['probabilities', 'logits'] as const)('leaves NaN out, and all of a sequence: pool %s', async (pool) => {
    const model = lily({ routing: 'sequence', pool })
    const injected = await inject(baseModel(), model, { mask: 'mask' })
    const broken = x.map((number, i) => (Math.floor(i / D_IN) === 0 ? NaN : number))
    const results = await run(await sessionOf(injected.bytes), await injected.feeds(model), { mask, x: broken })
    for (const { name, outFeatures } of LAYERS) {
      const right = expected(model, name, { mask })
      const rest = results[`y of ${name}`].data.subarray(outFeatures)
      expectClose(name, rest, right.slice(1, M))
      const base = expected(null, name, {})
      expectClose(name, rest.subarray((N - 1) * outFeatures, (2 * N - 1) * outFeatures), base.slice(N, 2 * N))
    }
  })

  it.each(['batch', 'sequence'] as const)('has the tokens of earlier calls, too: %s', async (routing) => {
    await checkAll(baseModel(), inTurn({ routing }), { mask, past: 4 }, { mask: 'mask' })
  })

  it('of flat tokens', async () => {
    const [base, dims] = [baseModel({ dims: ['M', D_IN] }), [M, D_IN]]
    await checkAll(base, inTurn({ routing: 'batch' }), { mask, dims }, { mask: 'mask' })
    const injected = await inject(base, lily({ routing: 'batch' }), { mask: 'mask' })
    const session = await sessionOf(injected.bytes)
    await expect(run(session, await injected.feeds(null), { dims, mask, past: 1 })).rejects.toThrow()
    // One token, to which the numbers of a longer mask would be broadcast.
    const token = { x: x.slice(0, D_IN), dims: [1, D_IN] }
    for (const sizes of [
      [1, 6],
      [6, 1],
      [2, 1],
    ]) {
      const numbers = new BigInt64Array(sizes[0] * sizes[1]).fill(1n)
      const long = { mask: new ort.Tensor('int64', numbers, sizes) }
      await expect(run(session, { ...(await injected.feeds(null)), ...long }, token)).rejects.toThrow()
    }
  })

  it('of fewer or more tokens than x has is refused by the session', async () => {
    for (const routing of ['batch', 'sequence'] as const) {
      const injected = await inject(baseModel(), lily({ routing }), { mask: 'mask' })
      const session = await sessionOf(injected.bytes)
      for (const sizes of [
        [1, 1],
        [B, 1],
        [1, N],
        [B + 1, N],
        [1, M],
      ]) {
        const numbers = new BigInt64Array(sizes[0] * sizes[1]).fill(1n)
        const wrong = { mask: new ort.Tensor('int64', numbers, sizes) }
        await expect(run(session, { ...(await injected.feeds(null)), ...wrong })).rejects.toThrow()
      }
    }
  })

  it('of an x of more dimensions', async () => {
    const dims = [B, 1, N, D_IN]
    await checkAll(baseModel({ dims }), inTurn({ routing: 'batch' }), { mask, dims }, { mask: 'mask' })
  })
})

describe('nodes', () => {
  it('Gemm with factors, a bias and a transposed weight', async () => {
    const product = (weight: string, y: string) =>
      node('Gemm', ['x', weight, 'bias'], y, { alpha: 0.5, beta: 2.5, transB: 1 })
    const base = changed(baseModel({ dims: ['M', D_IN], product }), ({ initializer: tensors }) => {
      for (const tensor of tensors) {
        tensor.dims.reverse()
        const weight = weights.get(tensor.name.slice(0, -'.weight'.length)) as Float32Array
        tensor.rawData = new Uint8Array(weight.map((number) => 2 * number).buffer)
      }
      tensors.push(create(TensorProtoSchema, initializer('bias', 'float32', Float32Array.of(0), [1])))
    })
    await checkAll(base, [lora(3), null], { dims: [M, D_IN] })
  })

  it('MatMulNBits, of four bits', async () => {
    const base = changed(
      baseModel({
        product: (weight, y) =>
          node('com.microsoft.MatMulNBits', ['x', weight, `${weight}_scales`], y, {
            ...{ K: D_IN, N: (weights.get(weight.slice(0, -'.weight'.length)) as Float32Array).length / D_IN },
            ...{ bits: 4, block_size: 16 },
          }),
      }),
      ({ initializer: tensors }) => {
        for (const tensor of [...tensors]) {
          const weight = weights.get(tensor.name.slice(0, -'.weight'.length)) as Float32Array
          const dOut = weight.length / D_IN
          const packed = new Uint8Array(dOut * 8).fill(0x88)
          for (let j = 0; j < dOut; j++)
            for (let k = 0; k < D_IN; k += 2) {
              const [low, high] = [0, 1].map((i) => 4 * weight[j * D_IN + k + i] + 8)
              packed[j * 8 + k / 2] = low + 16 * high
            }
          const scales = new Float32Array(dOut).fill(0.25)
          tensors.push(create(TensorProtoSchema, initializer(`${tensor.name}_scales`, 'float32', scales, [dOut])))
          Object.assign(tensor, { dataType: DataType.UINT8, dims: [BigInt(dOut), 1n, 8n], rawData: packed })
        }
      },
    )
    await checkAll(base, inTurn({ routing: 'token' }))
  })

  it('products of integers, as quantize_dynamic writes them', async () => {
    const base = changed(baseModel(), (graph) => {
      const integers = LAYERS.flatMap(({ name }) => [
        node('MatMulInteger', ['xq', `${name}.weight_quantized`, 'x zero', 'w zero'], `${name} integers`),
        node('Cast', [`${name} integers`], `${name} floats`, { to: DataType.FLOAT }),
        node('Mul', ['x scale', `${name}.weight_scale`], `${name} scales`),
        node('Mul', [`${name} floats`, `${name} scales`], `y of ${name}`),
      ])
      const quantise = { ...node('DynamicQuantizeLinear', ['x'], 'xq'), output: ['xq', 'x scale', 'x zero'] }
      graph.node = [quantise, ...integers].map((each) => create(NodeProtoSchema, each))
      const scales = LAYERS.map(({ name }) =>
        initializer(`${name}.weight_scale`, 'float32', Float32Array.of(0.25), [1]),
      )
      for (const weight of graph.initializer) {
        const numbers = new Float32Array(weight.rawData.slice().buffer)
        weight.name += '_quantized'
        weight.dataType = DataType.UINT8
        weight.rawData = Uint8Array.from(numbers, (number) => 4 * number + 8)
      }
      const zero = { name: 'w zero', dataType: DataType.UINT8, dims: [1n], rawData: Uint8Array.of(8) }
      graph.initializer.push(...[...scales, zero].map((each) => create(TensorProtoSchema, each)))
    })
    const quantised = await run(await sessionOf(base), {})
    const model = lily({ routing: 'token' })
    const injected = await inject(base, model)
    const session = await sessionOf(injected.bytes)
    for (const each of [model, null]) {
      const results = await run(session, await injected.feeds(each))
      for (const { name, outFeatures } of LAYERS) {
        // The quantisation of x is in both.
        const y = Matrix.exact(M, outFeatures, quantised[`y of ${name}`].data)
        const right = each === null ? y.times(1) : y.plus(updateOf(each, name, { x, sequences: B }))
        expectClose(name, results[`y of ${name}`].data, right)
      }
    }
  })

  it('of a model of an older representation, whose constants would be inputs', async () => {
    const base = baseModel({ opset: 11 })
    const model = fromBinary(ModelProtoSchema, base)
    const old = toBinary(ModelProtoSchema, Object.assign(model, { irVersion: 3n }))
    const adapter = lily({ routing: 'batch' })
    await checkAll(old, [adapter, null])
    const { bytes } = await inject(old, adapter, { bake: true })
    await check(await sessionOf(bytes), {}, adapter)
  })

  it('in both branches of If', async () => {
    const base = withBranches(baseModel(), 'condition')
    for (const config of [mixtures.token, mixtures.sequence, mixtures.uniform]) {
      const model = lily(config)
      const injected = await inject(base, model, config.routing === 'sequence' ? { mask: 'mask' } : {})
      const session = await sessionOf(injected.bytes)
      for (const side of [0, 1]) {
        const condition = { type: 'bool', data: Uint8Array.of(side), dims: [1], location: 'cpu' }
        await check(session, { condition, ...(await injected.feeds(model)) }, model)
      }
    }
  })
})

describe('exchange', () => {
  it('LoRA and constant mixtures of Lily, in the graph of either', async () => {
    const both = [lora(3), lily({ routing: 'uniform', r: 5 })] as const
    await checkAll(baseModel(), both)
    await checkAll(baseModel(), [both[1], both[0]])
  })

  it('an adapter of some of the layers', async () => {
    const some = LAYERS.filter(({ name }) => name !== 'layers.0.v')
    await checkAll(baseModel(), [lora(3), lora(4, {}, some), null])
    const config = { routing: 'sequence' } as const
    await checkAll(baseModel(), [lily(config), lily({ ...config, r: 2 }, some), null])
  })

  it('with frozen layers beside others', async () => {
    const freeze = (model: LilyModel) => {
      const weightsOf = Float32Array.from({ length: model.config.numB }, (_, e) => (e + 1) / 8)
      model.freeze({ 'layers.1.q': weightsOf, 'layers.0.v': weightsOf })
      return model
    }
    for (const routing of ['token', 'sequence'] as const) {
      await checkAll(baseModel(), [freeze(lily({ routing })), null, freeze(lily({ routing, r: 7, numB: 3 }))])
    }
  })

  it('in a model that was injected earlier', async () => {
    const { bytes, inputs } = await inject(baseModel(), lily({ routing: 'token' }))
    const again = await readInjected(bytes)
    expect(again.inputs).toEqual(inputs)
    const session = await sessionOf(again.bytes)
    for (const model of [lily({ routing: 'token', r: 8 }), null]) await check(session, await again.feeds(model), model)
  })
})

describe('injectFile', () => {
  /** A model whose weights are in a file beside it. */
  function writeExternal(folder: string): string {
    mkdirSync(folder, { recursive: true })
    const { model, data } = withExternalData(baseModel(), 'model.onnx_data')
    writeFileSync(join(folder, 'model.onnx_data'), data)
    writeFileSync(join(folder, 'model.onnx'), model)
    return join(folder, 'model.onnx')
  }

  it('leaves external data where it is', async () => {
    const folder = join(temporaryFolder(), 'external')
    const [source, target] = [writeExternal(folder), join(folder, 'adapted.onnx')]
    const data = readFileSync(`${source}_data`)
    const model = lily({ routing: 'batch' })
    const injected = await injectFile(source, target, model)
    expect(readFileSync(target).equals(injected.bytes)).toBe(true)
    expect(readFileSync(`${source}_data`).equals(data)).toBe(true)
    const externalData = [{ path: 'model.onnx_data', data }]
    const ofBytes = ort.InferenceSession.create(injected.bytes, { logSeverityLevel: 4, externalData })
    for (const session of [await sessionOf(target), await ofBytes])
      for (const each of [model, null]) await check(session, await injected.feeds(each), each)
  })
})
