/**
 * The layers of models that PyTorch's exporters and ONNX Runtime's quantisers wrote: test/fixtures/onnx/record.py tells the
 * values that each layer reads and writes, which it has found by their numbers.
 *
 * @project cpu
 */
import { readFileSync } from 'node:fs'
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import {
  AttributeProto_AttributeType as AttributeType,
  GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProto_DataType as DataType,
} from 'onnx-buf'
import { describe, expect, it, test } from 'vitest'
import { findSites } from '../../lib/onnx/find.js'
import { readModel } from '../../lib/onnx/read.js'
import type { Site, SoughtLayer } from '../../lib/onnx/sites.js'
import { expectRefused } from '../refusals/refused.js'

const FIXTURES = new URL('../fixtures/onnx/', import.meta.url)

/** A layer of a model: its size, and the names of its input and output. */
interface Recorded {
  size: [number, number]
  x: string
  y: string
}

type Index = Record<string, Record<string, Recorded>> & {
  'decoder-merged': Record<string, Record<'no_past' | 'with_past', Recorded>>
}
const { 'decoder-merged': merged, ...plain } = JSON.parse(
  readFileSync(new URL('index.json', FIXTURES), 'utf8'),
) as Index

const fixture = (name: string) => readModel(name, readFileSync(new URL(`${name}.onnx`, FIXTURES)))

const soughtOf = (layers: Record<string, Recorded>, prefix = ''): SoughtLayer[] =>
  Object.entries(layers).map(
    ([
      name,
      {
        size: [inFeatures, outFeatures],
      },
    ]) => ({
      ...{ name: prefix + name, inFeatures, outFeatures },
    }),
  )

const layer = (name: string, inFeatures: number, outFeatures: number): SoughtLayer => ({
  name,
  inFeatures,
  outFeatures,
})

/** What the record tells of a site. */
const valuesOf = ({ x, y }: Site | Recorded) => ({ x, y })

async function expectMessage(message: RegExp, action: () => unknown): Promise<void> {
  expect((await expectRefused('ERR_LILY_ARGUMENT', 'layers: ', action)).message).toMatch(message)
}

describe('a recorded model', () => {
  it.each(Object.keys(plain))('%s', (name) => {
    const sites = findSites(name, fixture(name), soughtOf(plain[name]))
    expect(sites.map(({ layer }) => layer)).toEqual(Object.keys(plain[name]))
    expect(sites.map(valuesOf)).toEqual(Object.values(plain[name]).map(valuesOf))
    for (const { node, graph, y } of sites) {
      expect(node.output[0]).toBe(y)
      expect(graph.node).toContain(node)
    }
    const type = name.endsWith('fp16') ? DataType.FLOAT16 : DataType.FLOAT
    expect(new Set(sites.map((site) => site.type))).toEqual(new Set([type]))
  })

  test('with If has each layer in both branches', () => {
    const model = fixture('decoder-merged')
    const recorded = Object.values(merged)
    const sites = findSites(
      '',
      model,
      soughtOf(Object.fromEntries(Object.entries(merged).map(([name, { no_past }]) => [name, no_past]))),
    )
    expect(sites).toHaveLength(2 * recorded.length)
    for (const branch of ['no_past', 'with_past'] as const) {
      const inBranch = sites.filter(({ graph }) => graph.name === branch)
      expect(inBranch.map(valuesOf)).toEqual(recorded.map((site) => valuesOf(site[branch])))
    }
    expect(sites.some(({ graph }) => graph === model.graph)).toBe(false)
  })

  it('may name modules from deeper inside, or from further outside', () => {
    const expected = Object.values(plain.encoder).map(valuesOf)
    expect(findSites('', fixture('encoder'), soughtOf(plain.encoder, 'bert.')).map(valuesOf)).toEqual(expected)
    const inner = soughtOf(plain['encoder-dynamo']).map((each) => ({
      ...each,
      name: each.name.replace('encoder.', ''),
    }))
    expect(findSites('', fixture('encoder-dynamo'), inner).map(valuesOf)).toEqual(
      Object.values(plain['encoder-dynamo']).map(valuesOf),
    )
  })

  it('tells the number of dimensions where it knows them', () => {
    const ranks = findSites('', fixture('encoder-dynamo'), soughtOf(plain['encoder-dynamo'])).map(({ rank }) => rank)
    expect(ranks).toEqual([...Array<number>(ranks.length - 1).fill(3), 2])
  })
})

describe('layers of the caller', () => {
  const name = 'model.layers.1.mlp.up_proj'
  const model = fixture('decoder')
  const found = plain.decoder[name]
  const weight = model.graph.node.find(({ output }) => output.includes(found.y))?.input[1] ?? ''

  it('are names of nodes or weights', () => {
    expect(weight).toMatch(/^onnx::MatMul_\d+$/)
    for (const given of ['/model/layers.1/mlp/up_proj/MatMul', weight]) {
      expect(findSites('', model, [layer('other', ...found.size)], { other: given }).map(valuesOf)).toEqual([
        valuesOf(found),
      ])
    }
  })

  it.each([
    ['of no adapted layer', { extra: weight }, /^layers: expected names of adapted layers as keys, got "extra"/],
    ['of nothing', { other: 'nothing' }, /got none of the name "nothing". The model has .*16 x 24/],
    ['of another size', { other: '/model/layers.1/mlp/down_proj/MatMul' }, /down_proj\/MatMul" \(24 x 16\)/],
    ['of one node for two layers', { other: weight, [name]: weight }, /expected a node for each layer/],
  ])('%s are refused', async (_, names: Record<string, string>, message) => {
    const layers = [layer('other', ...found.size), layer(name, ...found.size)]
    await expectMessage(message, () => findSites('', model, layers, names))
  })
})

describe('a layer that is not found', () => {
  test('lists the candidates of its size, the most similar first', async () => {
    const layers = [layer('model.layers.1.mlp.up_project', 16, 24)]
    const message =
      /got none of the name "model.layers.1.mlp.up_project". The model has "\/model\/layers.1\/mlp\/up_proj\/MatMul" \(16 x 24\)/
    await expectMessage(message, () => findSites('', fixture('decoder'), layers))
  })

  test('of a size that the model does not have lists others', async () => {
    const layers = [layer('model.layers.1.mlp.up_project', 16, 25)]
    const message =
      /of 16 x 25 for "model.layers.1.mlp.up_project".*The model has "\/model\/layers.1\/mlp\/up_proj\/MatMul"/
    await expectMessage(message, () => findSites('', fixture('decoder'), layers))
  })

  test('of another size is of another model', async () => {
    const layers = [layer('base.model.layers.1.mlp.up_proj', 16, 25)]
    const message =
      /of 16 x 25 for "base.model.layers.1.mlp.up_proj", got "\/model\/layers.1\/mlp\/up_proj\/MatMul" \(16 x 24\); inject into the model that was adapted$/
    await expectMessage(message, () => findSites('', fixture('decoder'), layers))
  })

  test('of several weights lists them', async () => {
    const message = /expected one weight for "q_proj", got 2: ".*layers.0.*layers.1/
    await expectMessage(message, () => findSites('', fixture('decoder'), [layer('q_proj', 16, 8)]))
  })

  test('in a model without any', async () => {
    const model = modelOf({ input: [{ name: 'x' }], node: [node('Relu', ['x'], 'y')], output: [{ name: 'y' }] })
    await expectRefused('ERR_LILY_ARGUMENT', 'the model has no such node', () =>
      findSites('', model, [layer('q', 2, 2)]),
    )
  })
})

type NodeInit = MessageInitShape<typeof NodeProtoSchema>
type GraphInit = MessageInitShape<typeof GraphProtoSchema>

const node = (opType: string, input: string[], output: string, more: NodeInit = {}) =>
  create(NodeProtoSchema, { ...more, opType, input, output: [output] })

const integers = (values: Record<string, number>) =>
  Object.entries(values).map(([name, value]) => ({ name, type: AttributeType.INT, i: BigInt(value) }))

const weight = (name: string, rows: number, columns: number, dataType: DataType = DataType.FLOAT) => ({
  ...{ name, dims: [BigInt(rows), BigInt(columns)], dataType, rawData: new Uint8Array(4 * rows * columns) },
})

/** A model, through its bytes. */
function modelOf(graph: GraphInit) {
  const model = create(ModelProtoSchema, { irVersion: 8n, opsetImport: [{ version: 17n }], graph })
  return readModel('', toBinary(ModelProtoSchema, model))
}

describe('a model of other tools', () => {
  // src/python/py/models/builders/base.py of onnxruntime-genai, make_matmul_float and make_matmul_nbits.
  const quantised = { domain: 'com.microsoft', attribute: integers({ K: 4, N: 3, bits: 4, block_size: 32 }) }
  const model = modelOf({
    input: [{ name: 'x' }],
    initializer: [
      weight('model.layers.0.attn.q_proj.MatMul.weight', 4, 3),
      weight('model.layers.1.attn.q_proj.MatMulNBits.qweight', 3, 4),
      weight('model.layers.1.attn.q_proj.MatMulNBits.scales', 3, 1),
      weight('model.layers.2.attn.q_proj.MatMul.weight_Q4G32', 3, 4),
      weight('model.layers.2.attn.q_proj.MatMul.weight_scale', 3, 1),
    ],
    node: [0, 1, 2].map((i) => {
      const ends = [['weight'], ['qweight', 'scales'], ['weight_Q4G32', 'weight_scale']][i]
      const module = `model.layers.${i}.attn.q_proj.MatMul${i === 1 ? 'NBits' : ''}`
      const name = `/model/layers.${i}/attn/q_proj/MatMul${['', 'NBits', '_Q4'][i]}`
      const type = i === 0 ? 'MatMul' : 'MatMulNBits'
      return node(
        type,
        ['x', ...ends.map((end) => `${module}.${end}`)],
        `y${i}`,
        i === 0 ? { name } : { ...quantised, name },
      )
    }),
  })

  test('of onnxruntime-genai', () => {
    const layers = [0, 1, 2].map((i) => layer(`model.layers.${i}.self_attn.q_proj`, 4, 3))
    expect(findSites('', model, layers).map(({ y }) => y)).toEqual(['y0', 'y1', 'y2'])
  })
})

describe('one weight of several nodes', () => {
  const shared = (names: readonly string[]) =>
    modelOf({
      input: [{ name: 'x' }],
      initializer: [weight('W', 2, 2)],
      node: names.map((name, i) => node('MatMul', [i === 0 ? 'x' : `y${i - 1}`, 'W'], `y${i}`, { name })),
    })

  test('of a module that is called twice is one layer', () => {
    const model = shared(['/albert/group/query/MatMul', '/albert/group/query_1/MatMul'])
    const sites = findSites('', model, [layer('albert.group.query', 2, 2)])
    expect(sites.map(({ y }) => y)).toEqual(['y0', 'y1'])
  })

  test('of two modules whose weights are tied is two layers', () => {
    const model = shared(['/encoder/out/MatMul', '/decoder/out/MatMul'])
    expect(findSites('', model, [layer('decoder.out', 2, 2)]).map(({ y }) => y)).toEqual(['y1'])
    expect(findSites('', model, [layer('other', 2, 2)], { other: 'W' }).map(({ y }) => y)).toEqual(['y0', 'y1'])
  })
})

describe('a path', () => {
  const square = (...products: [name: string, weight: string][]) =>
    modelOf({
      input: [{ name: 'x' }],
      initializer: [...new Set(products.map(([, name]) => name))].map((name) => weight(name, 2, 2)),
      node: products.map(([name, of], i) => node('MatMul', ['x', of], `y${i}`, { name })),
    })

  test('of a node counts more than a shorter one of a weight', () => {
    const model = square(['/model/layers.0/dense/MatMul', 'onnx::MatMul_9'], ['/dense/MatMul', 'dense.weight'])
    expect(findSites('', model, [layer('model.layers.0.dense', 2, 2)]).map(({ y }) => y)).toEqual(['y0'])
    expect(findSites('', model, [layer('dense', 2, 2)]).map(({ y }) => y)).toEqual(['y1'])
  })

  test('of a weight counts as much as that of a node, which it precedes', () => {
    const model = square(['/m/q/MatMul', 'onnx::MatMul_9'], ['', 'm.q.weight'])
    expect(findSites('', model, [layer('m.q', 2, 2)]).map(({ y }) => y)).toEqual(['y1'])
  })
})

describe('a square weight and its transpose', () => {
  const tied = (...names: string[]) =>
    modelOf({
      input: [{ name: 'x' }],
      initializer: [weight('q.weight', 2, 2)],
      node: [
        node('MatMul', ['x', 'q.weight'], 'y0', { name: names[0] }),
        node('Transpose', ['q.weight'], 'transposed'),
        node('MatMul', ['y0', 'transposed'], 'y1', { name: names[1] }),
        node('Gemm', ['y1', 'transposed'], 'y2', { name: names[2], attribute: integers({ transB: 1 }) }),
      ],
    })
  const found = (model: ReturnType<typeof tied>, names = {}) =>
    findSites('', model, [layer('q', 2, 2)], names).map(({ y }) => y)

  test('are two matrices, of which names of nodes tell one', async () => {
    expect(found(tied('/q/MatMul', '/MatMul', '/q_1/Gemm'))).toEqual(['y0', 'y2'])
    expect(found(tied('first', 'second', 'third'), { q: 'second' })).toEqual(['y1'])
    const message = /expected one weight for "q", got 2: "first" \(2 x 2\), "second" \(2 x 2\), "third"/
    for (const names of [{}, { q: 'q.weight' }]) {
      await expectMessage(message, () => found(tied('first', 'second', 'third'), names))
    }
  })
})

test('a weight is found through nodes that keep its numbers', () => {
  const type = (value: DataType) => integers({ to: value })
  const model = modelOf({
    input: [{ name: 'x' }],
    initializer: [weight('m.q.weight', 3, 2)],
    node: [
      node('Identity', ['m.q.weight'], 'same'),
      node('Transpose', ['same'], 'transposed'),
      node('Cast', ['transposed'], 'cast', { attribute: type(DataType.BFLOAT16) }),
      node('MatMul', ['x', 'cast'], 'y'),
    ],
  })
  const [site] = findSites('', model, [layer('m.q', 2, 3)])
  expect(site).toMatchObject({ x: 'x', y: 'y', type: DataType.BFLOAT16, rank: null })
})

test('of two casts the last one tells the type, and two transposes are none', () => {
  const model = modelOf({
    input: [{ name: 'x' }],
    initializer: [weight('m.q.weight', 3, 2)],
    node: [
      node('Cast', ['m.q.weight'], 'first', { attribute: integers({ to: DataType.FLOAT }) }),
      node('Transpose', ['first'], 'transposed'),
      node('Cast', ['transposed'], 'last', { attribute: integers({ to: DataType.FLOAT16 }) }),
      node('Transpose', ['last'], 'matrix', {
        attribute: [{ name: 'perm', type: AttributeType.INTS, ints: [1n, 0n] }],
      }),
      node('MatMul', ['x', 'matrix'], 'y'),
    ],
  })
  expect(findSites('', model, [layer('m.q', 3, 2)])).toMatchObject([{ type: DataType.FLOAT16 }])
})

test.each([
  [{}, DataType.FLOAT16],
  [{ output_dtype: 0 }, DataType.FLOAT16],
  [{ output_dtype: DataType.BFLOAT16 }, DataType.BFLOAT16],
])('DequantizeLinear with attributes %j makes numbers of type %i', (attributes, type) => {
  const model = modelOf({
    input: [{ name: 'x' }],
    initializer: [
      { ...weight('m.q.weight', 2, 3, DataType.INT8), rawData: new Uint8Array(6) },
      { name: 'scale', dims: [], dataType: DataType.FLOAT16, rawData: new Uint8Array(2) },
    ],
    node: [
      node('DequantizeLinear', ['m.q.weight', 'scale'], 'w', { attribute: integers(attributes) }),
      node('MatMul', ['x', 'w'], 'y'),
    ],
  })
  expect(findSites('', model, [layer('m.q', 2, 3)])).toMatchObject([{ type }])
})

test('a weight may be an input, too, whose default value it is', () => {
  const model = modelOf({
    input: [{ name: 'x' }, { name: 'm.q.weight' }],
    initializer: [weight('m.q.weight', 2, 3)],
    node: [node('MatMul', ['x', 'm.q.weight'], 'y')],
  })
  expect(findSites('', model, [layer('m.q', 2, 3)])).toMatchObject([{ y: 'y' }])
})

test('a product with the transpose of x is no layer', async () => {
  const attribute = integers({ transA: 1 })
  const model = modelOf({
    input: [{ name: 'x' }],
    initializer: [weight('m.q.weight', 2, 2)],
    node: [node('Gemm', ['x', 'm.q.weight'], 'y', { attribute })],
  })
  await expectRefused('ERR_LILY_ARGUMENT', 'the model has no such node', () =>
    findSites('', model, [layer('m.q', 2, 2)]),
  )
})
