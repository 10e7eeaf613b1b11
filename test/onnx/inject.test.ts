/**
 * ONNX models with an adapter: their structure. test/interop/onnx-graphs.test.ts runs them, for which ONNX Runtime checks that each value is
 * defined once, and before it is read.
 *
 * @project cpu
 */
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import {
  AttributeProto_AttributeType as AttributeType,
  type AttributeProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
} from 'onnx-buf'
import { describe, expect, it, vi } from 'vitest'
import type { AdapterModel } from '../../lib/index.js'
import { inject, injectFile, readInjected } from '../../lib/onnx/index.js'
import { expectRefused } from '../refusals/refused.js'
import { baseModel, changed, D_IN, initializer, LAYERS, lily, lora, mixtures } from '../support/onnx-layers.js'
import { temporaryFolder } from '../support/temporary.js'

const KEY = 'lily_kernels'
const adapters: Record<string, () => AdapterModel> = {
  LoRA: () => lora(2),
  ...Object.fromEntries(Object.entries(mixtures).map(([name, config]) => [name, () => lily(config)])),
}
const graphOf = (bytes: Uint8Array) => fromBinary(ModelProtoSchema, bytes).graph as GraphProto
const isNew = (name: string) => name.startsWith('lily/')

/** Field 1000 of a message, which no schema has: the text 'kept'. */
const UNKNOWN = Uint8Array.of(0xc2, 0x3e, 4, ...new TextEncoder().encode('kept'))
const base = () => Uint8Array.from([...baseModel(), ...UNKNOWN])

/** The model without what inject has added to it. */
function withoutAdapter(bytes: Uint8Array, inputs: readonly string[]): Uint8Array {
  const model = fromBinary(ModelProtoSchema, bytes)
  const graph = model.graph as GraphProto
  for (const add of graph.node.filter(({ opType, input }) => opType === 'Add' && input[0]?.endsWith('/base'))) {
    const [of] = graph.node.filter(({ output }) => output.includes(add.input[0]))
    of.output = of.output.map((name) => (name === add.input[0] ? add.output[0] : name))
  }
  graph.node = graph.node.filter(({ name }) => !isNew(name))
  graph.input = graph.input.filter(({ name }) => !inputs.includes(name))
  graph.initializer = graph.initializer.filter(({ name }) => !isNew(name) && !inputs.includes(name))
  model.metadataProps = model.metadataProps.filter(({ key }) => key !== KEY)
  return toBinary(ModelProtoSchema, model)
}

describe.each(Object.entries(adapters))('%s', (_, adapterOf) => {
  it.each([11, 13, 18])('adds nodes to a model of opset %i, and changes nothing else', async (opset) => {
    const given = Uint8Array.from([...baseModel({ opset }), ...UNKNOWN])
    const copy = given.slice()
    const { bytes, inputs } = await inject(given, adapterOf(), { mask: 'mask' })
    expect(given).toEqual(copy)
    const names = inputs.map(({ name }) => name)
    expect(withoutAdapter(bytes, names)).toEqual(toBinary(ModelProtoSchema, fromBinary(ModelProtoSchema, given)))
    expect(graphOf(bytes).input.map(({ name }) => name)).toEqual(['x', 'mask', ...names])
  })

  it('is written into the model with bake', async () => {
    const [given, adapter] = [base(), adapterOf()]
    const { bytes, inputs } = await inject(given, adapter, { bake: true })
    expect(inputs).toEqual([])
    const feeds = await (await inject(given, adapter)).feeds(adapter)
    const graph = graphOf(bytes)
    expect(graph.input.map(({ name }) => name)).toEqual(['x', 'mask'])
    for (const [name, { data, dims }] of Object.entries(feeds)) {
      const weight = graph.initializer.find((each) => each.name === name)
      expect(weight).toMatchObject({ dims: dims.map(BigInt), dataType: DataType.FLOAT })
      expect(weight?.rawData).toEqual(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    }
    expect(withoutAdapter(bytes, Object.keys(feeds))).toEqual(withoutAdapter(given, []))
  })

  it('is read again', async () => {
    for (const bake of [false, true]) {
      const injected = await inject(base(), adapterOf(), { bake })
      const again = await readInjected(injected.bytes)
      expect(again.inputs).toEqual(injected.inputs)
      expect(again.bytes).toEqual(injected.bytes)
      expect(again.bytes.buffer).not.toBe(injected.bytes.buffer)
    }
  })
})

describe('content', () => {
  it('is that of a Blob, an ArrayBuffer, or a part of one', async () => {
    const given = base()
    const { bytes } = await inject(given, lora(1))
    const part = new Uint8Array(given.length + 9)
    part.set(given, 4)
    for (const data of [new Blob([given]), new File([given], 'model.onnx'), given.buffer, part.subarray(4, -5)]) {
      expect((await inject(data, lora(1))).bytes).toEqual(bytes)
      expect((await readInjected(new Blob([bytes]))).bytes).toEqual(bytes)
    }
  })
})

describe('types', () => {
  it.each([DataType.BFLOAT16, DataType.FLOAT16, DataType.DOUBLE])('casts x and the sum of type %i', async (type) => {
    const given = changed(baseModel(), ({ initializer: weights, input, output }) => {
      for (const weight of weights) {
        weight.dataType = type
        weight.rawData = new Uint8Array(Number(weight.dims[0] * weight.dims[1]) * (type === DataType.DOUBLE ? 8 : 2))
      }
      for (const { name, type: of } of [...input, ...output])
        if (name !== 'mask' && of?.value.case === 'tensorType') of.value.value.elemType = type
    })
    const { bytes } = await inject(given, lora(2))
    const { node } = graphOf(bytes)
    expect(node.slice(0, 6).map(({ opType }) => opType)).toEqual(['MatMul', 'Cast', 'MatMul', 'MatMul', 'Cast', 'Add'])
    const to = ({ attribute }: NodeProto) => attribute.map(({ name, i }) => [name, Number(i)])
    expect([to(node[1]), to(node[4])]).toEqual([[['to', DataType.FLOAT]], [['to', type]]])
    expect(node[1].input).toEqual(['x'])
  })
})

describe('names', () => {
  const taken = ['layers.0.q.lily_A.weight', 'lily/layers.0.q/base', 'lily/layers.0.q/MatMul', 'lily/0,-1']
  const given = changed(baseModel(), ({ initializer: weights }) => {
    for (const name of taken)
      weights.push(create(TensorProtoSchema, initializer(name, 'float32', Float32Array.of(7), [1])))
  })

  it('are others than those of the model', async () => {
    const adapter = lily({ routing: 'token' })
    const injected = await inject(given, adapter)
    const { bytes, inputs } = injected
    const { input, initializer: weights, node } = graphOf(bytes)
    const names = [...[...input, ...weights].map(({ name }) => name), ...node.flatMap(({ output }) => output)]
    expect(new Set(names).size).toBe(names.length)
    expect(inputs[0].name).toBe('layers.0.q.lily_A.weight_2')
    expect(Object.keys(await injected.feeds(adapter))).toEqual(inputs.map(({ name }) => name))
    const again = await readInjected(bytes)
    expect(Object.keys(await again.feeds(null))).toEqual(inputs.map(({ name }) => name))
  })

  it('are others than those of nodes, and of values in subgraphs', async () => {
    const [ofNode, ofValue] = ['lily/layers.0.q/Softmax', 'lily/layers.0.q/Mul']
    const other = changed(baseModel(), ({ node }) => {
      node[0].name = ofNode
      const body = create(GraphProtoSchema, {
        node: [create(NodeProtoSchema, { opType: 'Identity', input: ['x'], output: [ofValue] })],
      })
      const attribute = [{ name: 'body', type: AttributeType.GRAPH, g: body }]
      node.push(create(NodeProtoSchema, { opType: 'Loop', attribute }))
    })
    const { node } = graphOf((await inject(other, lily({ routing: 'token' }))).bytes)
    const added = node.slice(1).flatMap(({ name, output }) => [name, ...output])
    expect(added).toEqual(expect.arrayContaining([`${ofNode}_2`, `${ofValue}_2`]))
    expect(added).not.toContain(ofNode)
    expect(added).not.toContain(ofValue)
  })

  it('of many nodes of one weight are found without counting from the start', async () => {
    const many = changed(baseModel(), ({ node }) => {
      for (let i = 0; i < 500; i++) node.push({ ...node[0], output: [`y${i}`] })
    })
    const has = vi.spyOn(Set.prototype, 'has')
    const { bytes } = await inject(many, lora(1))
    const count = has.mock.calls.length
    has.mockRestore()
    expect(count).toBeLessThan(10_000)
    expect(graphOf(bytes).node.at(-1)?.name).toBe('lily/layers.0.q/Add_501')
  })

  it('of layers that the model names otherwise are those of the option', async () => {
    const other = changed(baseModel(), ({ initializer: weights, node }) => {
      for (const weight of weights) {
        const [name] = weight.name.split('.weight')
        const [reader] = node.filter(({ input }) => input.includes(weight.name))
        weight.name = `onnx::MatMul_${LAYERS.findIndex((layer) => layer.name === name)}`
        reader.input = ['x', weight.name]
      }
    })
    await expectRefused('ERR_LILY_ARGUMENT', 'layers.0.q', () => inject(other, lora(1)))
    const layers = Object.fromEntries(LAYERS.map(({ name }, i) => [name, `onnx::MatMul_${i}`]))
    const { inputs } = await inject(other, lora(1), { layers })
    expect(inputs.map(({ name }) => name).filter((name) => name.includes('lora_A'))).toEqual(
      LAYERS.map(({ name }) => `${name}.lora_A.weight`),
    )
  })
})

describe('refusals', () => {
  const refused = async (
    code: string,
    message: string,
    options: object,
    model: unknown = lora(1),
    given: unknown = base(),
  ) => {
    const copy = given instanceof Uint8Array ? given.slice() : null
    await expectRefused(`ERR_LILY_${code}`, message, () => inject(given as Uint8Array, model as AdapterModel, options))
    if (copy !== null) expect(given).toEqual(copy)
  }

  it('of arguments', async () => {
    await refused('ARGUMENT', 'model', {}, {})
    await refused('ARGUMENT', "got 'model.onnx'; for a path use injectFile", {}, undefined, 'model.onnx')
    await refused('ARGUMENT', 'baked', { baked: true })
    await refused('ARGUMENT', 'bake', { bake: 1 })
    await refused('ARGUMENT', 'layers', { layers: ['q'] })
    await refused('ARGUMENT', 'layers', { layers: { 'layers.0.q': 4 } })
    await refused('ARGUMENT', 'mask', { mask: null })
    const disposed = lora(1)
    disposed.dispose()
    await refused('DISPOSED', 'dispose', {}, disposed)
  })

  it('of a mask that is no input [B, N], with the names of the inputs', async () => {
    for (const model of [lora(1), lily({ routing: 'token' }), lily({ routing: 'batch' })]) {
      for (const mask of ['attention_mask', 'x', 'layers.0.q.weight'])
        await refused('ARGUMENT', `got "${mask}"; the ONNX model has "mask"`, { mask }, model)
    }
    const without = changed(baseModel(), ({ input }) => input.pop())
    await refused('ARGUMENT', 'the ONNX model has none', { mask: 'mask' }, lora(1), without)
  })

  it('of routing sequence without sequences', async () => {
    const flat = baseModel({ dims: ['M', D_IN] })
    await refused('ARGUMENT', "[B, N, d_in] for routing 'sequence'", {}, lily({ routing: 'sequence' }), flat)
    const frozen = lily({ routing: 'sequence' })
    frozen.freeze('uniform')
    await inject(flat, frozen)
  })

  it('of a model that has an adapter', async () => {
    for (const bake of [false, true]) {
      const { bytes } = await inject(base(), lora(1), { bake })
      await refused('CHECKPOINT', KEY, {}, lora(1), bytes)
    }
  })

  it('of numbers that are not finite', async () => {
    const model = lily({ routing: 'token' })
    model.layer('layers.0.q').b.value.data[5] = NaN
    await refused('ARGUMENT', 'finite numbers in "layers.0.q.lily_B.weight"', { bake: true }, model)
    const injected = await inject(base(), model)
    await expectRefused('ERR_LILY_ARGUMENT', 'diverged', () => injected.feeds(model))
    await injected.feeds(null)
  })
})

describe('injectFile', () => {
  const root = temporaryFolder()
  const folder = (name: string) => {
    mkdirSync(join(root, name))
    return join(root, name)
  }

  it('writes what inject returns', async () => {
    const [source, target] = ['model.onnx', 'adapted.onnx'].map((name) => join(root, name))
    const [given, adapter] = [base(), lily({ routing: 'sequence' })]
    writeFileSync(source, given)
    const injected = await injectFile(pathToFileURL(source), target, adapter, { mask: 'mask' })
    const { bytes, inputs } = injected
    expect(bytes).toEqual((await inject(given, adapter, { mask: 'mask' })).bytes)
    expect(readFileSync(target).equals(bytes)).toBe(true)
    expect(readFileSync(source).equals(given)).toBe(true)
    const again = await readInjected(target)
    expect(again.inputs).toEqual(inputs)
    expect(await again.feeds(adapter)).toEqual(await injected.feeds(adapter))
    await injectFile(source, source, adapter, { bake: true })
    expect((await readInjected(pathToFileURL(source))).inputs).toEqual([])
  })

  /** Makes the numbers of a weight those of another file. */
  const toExternal = (weight: TensorProto) => {
    weight.rawData = new Uint8Array()
    weight.dataLocation = DataLocation.EXTERNAL
    weight.externalData = [create(StringStringEntryProtoSchema, { key: 'location', value: 'model.onnx_data' })]
    return weight
  }
  const constant = (attribute: MessageInitShape<typeof AttributeProtoSchema>) =>
    create(NodeProtoSchema, { opType: 'Constant', output: ['constant'], attribute: [attribute] })
  const scalar = () => toExternal(create(TensorProtoSchema, initializer('', 'float32', Float32Array.of(1), [])))
  const externals: Record<string, (graph: GraphProto) => unknown> = {
    'an initializer': ({ initializer: [, weight] }) => toExternal(weight),
    'an attribute': ({ node }) => node.push(constant({ name: 'value', type: AttributeType.TENSOR, t: scalar() })),
    'a list of an attribute': ({ node }) =>
      node.push(constant({ name: 'list', type: AttributeType.TENSORS, tensors: [scalar()] })),
    'a branch': ({ node }) => {
      const g = create(GraphProtoSchema, { initializer: [Object.assign(scalar(), { name: 'w' })] })
      node.push(constant({ name: 'then_branch', type: AttributeType.GRAPH, g }))
    },
  }

  it.each(Object.entries(externals))('writes beside external data of %s, and not elsewhere', async (what, change) => {
    const [from, to] = [folder(`from ${what}`), folder(`to ${what}`)]
    const [source, data, alias] = [join(from, 'model.onnx'), join(from, 'model.onnx_data'), join(to, 'alias')]
    writeFileSync(source, changed(baseModel(), change))
    writeFileSync(data, 'weights')
    const refused = (message: string, target: string, of = source) =>
      expectRefused('ERR_LILY_ARGUMENT', message, () => injectFile(of, target, lora(1)))
    await refused(JSON.stringify(realpathSync(from)), join(to, 'model.onnx'))
    expect(readdirSync(to)).toEqual([])
    await refused("another path than the model's weights have", data)
    expect(readFileSync(data, 'utf8')).toBe('weights')
    symlinkSync(from, alias, 'junction')
    await refused("another path than the model's weights have", join(alias, 'model.onnx_data'))
    await injectFile(source, join(alias, 'adapted.onnx'), lora(1))
    expect(readdirSync(from).sort()).toEqual(['adapted.onnx', 'model.onnx', 'model.onnx_data'])
  })

  it.skipIf(process.platform === 'win32')(
    'writes beside external data of what a link leads to (Windows has few links of files)',
    async () => {
      const [from, to] = [folder('stored'), folder('links')]
      const link = join(to, 'model.onnx')
      writeFileSync(join(from, 'model.onnx'), changed(baseModel(), externals['an initializer']))
      symlinkSync(join(from, 'model.onnx'), link)
      await expectRefused('ERR_LILY_ARGUMENT', JSON.stringify(realpathSync(from)), () =>
        injectFile(link, join(to, 'adapted.onnx'), lora(1)),
      )
      await injectFile(link, join(from, 'adapted.onnx'), lora(1))
    },
  )

  it('replaces the target, and does not write into it', async () => {
    const [source, target, old] = ['whole.onnx', 'target.onnx', 'old.onnx'].map((name) => join(root, name))
    writeFileSync(source, base())
    writeFileSync(target, 'old')
    linkSync(target, old)
    const { bytes } = await injectFile(source, target, lora(1))
    expect(readFileSync(target).equals(bytes)).toBe(true)
    expect(readFileSync(old, 'utf8')).toBe('old')
  })

  it('refuses what it cannot read or write, and leaves the old file', async () => {
    const source = join(folder('files'), 'model.onnx')
    const target = join(root, 'files', 'adapted.onnx')
    const refused = (code: string, message: string, ...args: Partial<Parameters<typeof injectFile>>) =>
      expectRefused(code, message, () => injectFile(...(args as Parameters<typeof injectFile>)))
    await refused('ERR_LILY_CHECKPOINT', source, source, target, lora(1))
    await refused('ERR_LILY_ARGUMENT', 'source', new Uint8Array(4) as never, target, lora(1))
    await refused('ERR_LILY_ARGUMENT', 'target', source, undefined, lora(1))
    await refused('ERR_LILY_ARGUMENT', 'target', source, lora(1) as never)
    writeFileSync(target, 'old')
    writeFileSync(source, 'no model')
    await refused('ERR_LILY_CHECKPOINT', source, source, target, lora(1))
    writeFileSync(source, base())
    await refused('ERR_LILY_ARGUMENT', 'layers.9', source, target, lora(1, {}, [{ ...LAYERS[0], name: 'layers.9.q' }]))
    await refused('ERR_LILY_CHECKPOINT', join(root, 'files'), source, join(root, 'files'), lora(1))
    expect(readFileSync(target, 'utf8')).toBe('old')
    // Without its bytes: the file has a hole.
    truncateSync(source, 2 ** 31)
    await refused('ERR_LILY_CHECKPOINT', 'external data', source, target, lora(1))
    expect(existsSync(join(root, 'files', 'adapted.onnx'))).toBe(true)
    expect(readdirSync(join(root, 'files')).sort()).toEqual(['adapted.onnx', 'model.onnx'])
  })
})

describe('readInjected', () => {
  const injected = async (adapter: AdapterModel = lily({ routing: 'batch' })) =>
    fromBinary(ModelProtoSchema, (await inject(base(), adapter)).bytes)
  const refused = (model: ModelProto, message: string) =>
    expectRefused('ERR_LILY_CHECKPOINT', message, () => readInjected(toBinary(ModelProtoSchema, model)))

  it('refuses a model without an adapter, and other content', async () => {
    await expectRefused('ERR_LILY_CHECKPOINT', KEY, () => readInjected(base()))
    await expectRefused('ERR_LILY_CHECKPOINT', 'ONNX', () => readInjected(new Blob(['text'])))
    await expectRefused('ERR_LILY_ARGUMENT', 'file', () => readInjected(4 as never))
    await expectRefused('ERR_LILY_CHECKPOINT', 'nothing.onnx', () => readInjected('nothing.onnx'))
  })

  type Note = Record<string, unknown> & { layers: Record<string, unknown>[] }
  const changes: Record<string, (note: Note) => unknown> = {
    'another version': (note) => (note.version = 2),
    'another routing': (note) => (note.routing = 'fixed'),
    'another pool': (note) => (note.pool = 'max'),
    'another activation': (note) => (note.activation = 1),
    'no flag': (note) => delete note.isBaked,
    'no layers': (note) => (note.layers = []),
    'layers that are no list': (note) => Object.assign(note, { layers: {} }),
    'a layer that is no object': (note) => Object.assign(note, { layers: [null] }),
    'a layer twice': (note) => note.layers.push(note.layers[0]),
    'a layer without a name': (note) => delete note.layers[0].name,
    'a negative size': (note) => (note.layers[0].inFeatures = -1),
    'a size that is no integer': (note) => (note.layers[0].outFeatures = 1.5),
    'another size': (note) => (note.layers[0].inFeatures = 5),
    'a matrix with two meanings': (note) => (note.layers[0].a = note.layers[0].b),
    'a matrix that the graph lacks': (note) => (note.layers[0].router = 'router'),
    'a matrix that is another input': (note) => (note.layers[0].router = 'x'),
    'a router that is a number': (note) => (note.layers[0].router = 3),
    'routers and constant weights': (note) => (note.routing = 'constant'),
  }
  it.each(Object.entries(changes))('refuses a note with %s', async (_, change) => {
    const model = await injected()
    const entry = model.metadataProps.find(({ key }) => key === KEY) as { value: string }
    const note = JSON.parse(entry.value) as Note
    change(note)
    entry.value = JSON.stringify(note)
    await refused(model, KEY)
  })

  it('refuses sizes for which its zeros would take much memory', async () => {
    const model = await injected(lora(1))
    const entry = model.metadataProps.find(({ key }) => key === KEY) as { value: string }
    const resize = (size: number) => {
      entry.value = entry.value.replace(/"inFeatures":\d+/, `"inFeatures":${size}`)
      const type = model.graph?.input.find(({ name }) => name === 'layers.0.q.lora_A.weight')?.type?.value
      const [dim] = type?.case === 'tensorType' ? (type.value.shape?.dim ?? []) : []
      dim.value = { case: 'dimValue', value: BigInt(size) }
      return model
    }
    await readInjected(toBinary(ModelProtoSchema, resize(2 ** 22)))
    await refused(resize(2 ** 22 + 1), KEY)
  })

  it('refuses a note that is no JSON, or twice there, and inputs of other types', async () => {
    const model = await injected()
    model.metadataProps.push(...model.metadataProps)
    await refused(model, 'several')
    const [entry] = model.metadataProps.splice(1)
    await readInjected(toBinary(ModelProtoSchema, model))
    Object.assign(model.metadataProps[0], { value: entry.value.slice(1) })
    await refused(model, 'JSON')
    const other = await injected()
    const last = other.graph?.input.at(-1)?.type?.value
    if (last?.case === 'tensorType') last.value.elemType = DataType.DOUBLE
    await refused(other, 'float32')
  })
})
