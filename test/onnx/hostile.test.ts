/**
 * Damaged ONNX models: the error names what is wrong, and the bytes of the model are not written to.
 *
 * @project cpu
 */
import { readFileSync } from 'node:fs'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProto_DataType as DataType,
} from 'onnx-buf'
import { describe, expect, it, test } from 'vitest'
import { LilyError } from '../../lib/index.js'
import { findSites } from '../../lib/onnx/find.js'
import { readModel } from '../../lib/onnx/read.js'
import { expectRefused } from '../refusals/refused.js'
import { integer, randomFrom } from '../support/random.js'

const NAMES = ['decoder-merged', 'decoder-q4', 'encoder-q8', 'decoder-dynamo']
const [bytes, ...others] = NAMES.map((name) => readFileSync(new URL(`../fixtures/onnx/${name}.onnx`, import.meta.url)))
const LAYERS = ['q_proj', 'k_proj'].map((name) => ({
  ...{ name: `model.layers.1.self_attn.${name}`, inFeatures: 16, outFeatures: 8 },
}))

const read = (file: Uint8Array) => findSites('model.onnx', readModel('model.onnx', file), LAYERS)

/** A graph of a model, with a change; 0 is the outermost one, 1 and 2 are the branches of its If. */
function changed(change: (graph: GraphProto, model: ModelProto) => void, index = 0): Uint8Array {
  const model = fromBinary(ModelProtoSchema, Uint8Array.from(bytes))
  const graph = model.graph ?? create(GraphProtoSchema)
  change(index === 0 ? graph : (graph.node[0].attribute[index - 1].g ?? graph), model)
  return toBinary(ModelProtoSchema, model)
}

/** A graph in a graph, in nodes that are no control flow: `depth` of them. */
function nested(depth: number): Uint8Array {
  let graph = create(GraphProtoSchema)
  for (let level = 0; level < depth; level++) {
    const attribute = [{ name: 'g', type: AttributeType.GRAPH, g: graph }]
    graph = create(GraphProtoSchema, { node: [create(NodeProtoSchema, { attribute })] })
  }
  const model = create(ModelProtoSchema, { opsetImport: [{ version: 17n }], graph })
  return toBinary(ModelProtoSchema, model, { writeUnknownFields: false })
}

describe('a damaged model', () => {
  const cases: Record<string, [file: () => Uint8Array, message: string | RegExp]> = {
    empty: [() => new Uint8Array(), 'bytes without a graph'],
    'of another format': [
      () => Uint8Array.from(Buffer.from('ORTM and flat buffers')),
      'expected an ONNX model, got other',
    ],
    'cut off': [() => bytes.subarray(0, 5000), 'expected an ONNX model, got other bytes'],
    'without operators': [() => changed((_, model) => (model.opsetImport = [])), 'of version 11 or later, got none'],
    'of old operators': [() => changed((_, model) => (model.opsetImport[0].version = 10n)), 'got version 10'],
    'of a negative version': [() => changed((_, model) => (model.opsetImport[0].version = -1n)), 'got version -1'],
    'of two versions': [() => changed((_, model) => model.opsetImport.push(model.opsetImport[0])), 'got several'],
    'with an input that is defined nowhere': [
      () => changed((graph) => (graph.node[5].input[0] = 'nowhere'), 1),
      'expected inputs that are defined before, got "nowhere"',
    ],
    'with such an input of a node without a name': [
      () => changed((graph) => Object.assign(graph.node[5], { name: '', input: ['nowhere'] }), 1),
      /^model.onnx: the "\w+" that writes "[^"]+": expected inputs that are defined before, got "nowhere"/,
    ],
    'with a graph as an integer in a node without a name': [
      () =>
        changed(({ node: [node] }) => {
          node.name = ''
          node.attribute[0].type = AttributeType.INT
        }),
      /the "If" that writes "[^"]+": expected an attribute "else_branch"/,
    ],
    'with nodes in a cycle': [
      () => changed((graph) => (graph.node[0].input[0] = graph.node[4].output[0]), 2),
      'expected inputs that are defined before',
    ],
    'with nodes in another order': [() => changed((graph) => graph.node.reverse(), 1), 'sort the nodes of the graph'],
    'with an input of the other branch': [
      () => changed((graph) => (graph.node[0].input[0] = 'of the other'), 1),
      'got "of the other"',
    ],
    'with an output that is defined nowhere': [
      () => changed((graph) => (graph.output[0].name = 'nowhere')),
      'the outputs of the graph: expected inputs that are defined before, got "nowhere"',
    ],
    'with a value twice': [
      () => changed((graph) => (graph.node[1].output[0] = graph.node[0].output[0]), 1),
      'expected one definition, got two',
    ],
    'with a weight twice': [
      () => changed((graph) => graph.initializer.push(graph.initializer[0])),
      'expected one definition, got two',
    ],
    'with a weight without a name': [() => changed((graph) => (graph.initializer[0].name = '')), 'got none'],
    'with an attribute twice': [
      () => changed((graph) => graph.node[0].attribute.push(graph.node[0].attribute[0])),
      'expected "else_branch" once',
    ],
    'with a graph as an integer': [
      () => changed((graph) => (graph.node[0].attribute[0].type = AttributeType.INT)),
      'an attribute "else_branch" of the type that it names',
    ],
    'without the graph of an attribute': [
      () => changed((graph) => (graph.node[0].attribute[0].g = undefined)),
      'an attribute "else_branch" of the type that it names',
    ],
    'with a negative dimension': [
      () => changed((graph) => (graph.initializer[0].dims = [-16n, -8n])),
      'dimensions of at least 0',
    ],
    'with a product of dimensions that overflows': [
      () => changed((graph) => (graph.initializer[0].dims = [2n ** 62n, 2n ** 62n, 0n])),
      'dimensions of at least 0 and below 2^53',
    ],
    'with a dimension of 2^40': [
      () => changed((graph) => (graph.initializer[0].dims = [2n ** 40n, 8n])),
      `expected ${2 ** 45} bytes for the dimensions [1099511627776, 8], got 512`,
    ],
    'with half of a weight': [
      () => changed((graph) => (graph.initializer[0].rawData = graph.initializer[0].rawData.subarray(0, 256))),
      'expected 512 bytes for the dimensions [16, 8], got 256',
    ],
    'with a weight of an unknown type': [() => changed((graph) => (graph.initializer[0].dataType = 99)), 'got type 99'],
    'with a list of strings of another length': [
      () =>
        changed((graph) => {
          Object.assign(graph.initializer[0], { dataType: DataType.STRING, rawData: new Uint8Array() })
          graph.initializer[0].stringData = [new Uint8Array(3)]
        }),
      'expected 128 values for the dimensions [16, 8], got 1',
    ],
    'with 33 levels of graphs': [() => nested(33), 'maximum recursion depth'],
    'with 200 levels of graphs': [() => nested(200), 'maximum recursion depth'],
  }
  test.each(Object.entries(cases))('%s', async (_, [file, message]) => {
    const error = await expectRefused('ERR_LILY_CHECKPOINT', '', () => read(file()))
    expect(error.message).toMatch(/^model\.onnx: /)
    expect(error.message).toEqual(
      typeof message === 'string' ? expect.stringContaining(message) : expect.stringMatching(message),
    )
  })

  it('truncated anywhere', async () => {
    for (let length = 0; length < bytes.length; length += 97) {
      await expectRefused('ERR_LILY_CHECKPOINT', '', () => read(bytes.subarray(0, length)))
    }
  })
})

test('graphs of 30 levels, weights in other files and a default value of an input are accepted', () => {
  expect(readModel('', nested(30)).graph.node).toHaveLength(1)
  const file = changed((graph) => {
    const [weight] = graph.initializer
    Object.assign(weight, { dataLocation: 1, rawData: new Uint8Array() })
    graph.input.push({ ...graph.input[0], name: weight.name })
  })
  expect(read(file)).toHaveLength(4)
})

test('a node may have more graphs than a call has arguments', () => {
  const graphs = Array.from({ length: 200_000 }, () => create(GraphProtoSchema))
  const attribute = [create(AttributeProtoSchema, { name: 'graphs', type: AttributeType.GRAPHS, graphs })]
  expect(read(changed((graph) => graph.node.push(create(NodeProtoSchema, { attribute }))))).toHaveLength(4)
})

test('a long chain of nodes from a weight is not followed, and takes no time for each product', async () => {
  const file = changed((graph) => {
    const weight = graph.initializer[0].name
    const chain = Array.from({ length: 20_000 }, (_, i) =>
      create(NodeProtoSchema, { opType: 'Identity', input: [i === 0 ? weight : `i${i - 1}`], output: [`i${i}`] }),
    )
    const products = Array.from({ length: 20_000 }, (_, i) =>
      create(NodeProtoSchema, { opType: 'MatMul', input: ['x', 'i19999'], output: [`m${i}`] }),
    )
    graph.node = [...chain, ...products]
    graph.output = []
  })
  await expectRefused('ERR_LILY_ARGUMENT', 'the model has no such node', () => read(file))
})

test('the bytes are not written to', () => {
  const copy = Uint8Array.from(bytes)
  read(copy)
  expect(Buffer.compare(copy, bytes)).toBe(0)
})

test('2,000 files with random changes are read, or are refused', () => {
  const random = randomFrom(54)
  const counts = { read: 0, refused: 0 }
  for (let i = 0; i < 2000; i++) {
    const original = i % 4 === 0 ? bytes : others[i % others.length]
    const copy = Uint8Array.from(original)
    for (let change = integer(random, 1, 3); change > 0; change--) {
      copy[integer(random, 0, copy.length - 1)] = integer(random, 0, 3) === 0 ? 255 : integer(random, 0, 255)
    }
    const before = Uint8Array.from(copy)
    try {
      read(copy)
      counts.read++
    } catch (error) {
      if (!(error instanceof LilyError)) throw error
      counts.refused++
    }
    expect(Buffer.compare(copy, before)).toBe(0)
  }
  expect(counts.read).toBeGreaterThan(100)
  expect(counts.refused).toBeGreaterThan(100)
}, 60_000)
