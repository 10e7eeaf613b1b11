/**
 * Tiny transformers with adapters in onnxruntime-node: the output of each layer is that of the float64 reference for the input
 * that the layer gets there. test/onnx/inject.test.ts shows that the other nodes remain as they are.
 */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { type GraphProto, ModelProtoSchema, ValueInfoProtoSchema } from 'onnx-buf'
import { describe, expect, it } from 'vitest'
import type { AdapterModel } from '../../lib/index.js'
import { inject } from '../../lib/onnx/index.js'
import { expectClose } from '../support/compare.js'
import { adaptersOf, CALLS, DECODER_TARGETS, ENCODER_TARGETS, KINDS, TEXTS } from '../support/onnx-adapters.js'
import { ortOfNode } from '../support/onnx-baked.js'
import {
  DECODER_LAYERS,
  decoderOnnx,
  ENCODER_LAYERS,
  encoderOnnx,
  pathOf,
  tinyDecoder,
  tinyEncoder,
  type TinyLayer,
  type TinyModel,
} from '../support/onnx-models.js'
import { outputOf } from '../support/onnx-reference.js'
import { DecoderSession, type OrtTensor, runEncoder } from '../support/onnx-sessions.js'

const ort = ortOfNode()

/** The names of the values that a layer reads and writes, with its bias. */
function valuesOf({ node }: GraphProto, { name, form }: TinyLayer) {
  const path = pathOf(name)
  const product = node.find((each) => each.name === `${path}/${form === 'Gemm' ? form : 'MatMul'}`)
  return { x: product!.input[0], y: `${path}/${form === 'MatMul + Add' ? 'Add' : form}_output_0` }
}

/** A session whose outputs are also those values of all layers. */
async function sessionOf(bytes: Uint8Array, layers: readonly TinyLayer[]) {
  const model = fromBinary(ModelProtoSchema, bytes)
  const graph = model.graph as GraphProto
  const names = new Set(layers.flatMap((layer) => Object.values(valuesOf(graph, layer))))
  graph.output.push(...Array.from(names, (name) => create(ValueInfoProtoSchema, { name })))
  return ort.InferenceSession.create(toBinary(ModelProtoSchema, model), { intraOpNumThreads: 1, logSeverityLevel: 3 })
}

/** Compares all layers. */
function check(
  bytes: Uint8Array,
  { layers, tensors }: TinyModel,
  adapter: AdapterModel | null,
  outputs: Readonly<Record<string, OrtTensor>>,
  mask?: readonly number[],
): void {
  const graph = fromBinary(ModelProtoSchema, bytes).graph as GraphProto
  for (const layer of layers) {
    const { x, y } = valuesOf(graph, layer)
    const [weight, bias] = ['weight', 'bias'].map((part) => tensors.get(`${layer.name}.${part}`)?.values)
    const given = { x: outputs[x].data, sequences: TEXTS.shape[0], mask }
    expectClose(layer.name, outputs[y].data, outputOf({ ...layer, weight: weight!, bias }, adapter, given))
  }
}

const all = Object.entries(KINDS)
const pooled = all.filter(([name]) => name === 'Lily, batch' || name === 'Lily, sequence')

describe('encoder', () => {
  const model = tinyEncoder()
  const bytes = encoderOnnx(model)

  it.each(all)('%s: two ranks in turn, and the base', async (name, create) => {
    const targets = name === 'Lily, sequence' ? ENCODER_TARGETS : [...ENCODER_TARGETS, 'classifier']
    const { first, second } = adaptersOf(create, ENCODER_LAYERS, targets)
    const injected = await inject(bytes, first)
    const session = await sessionOf(injected.bytes, ENCODER_LAYERS)
    for (const adapter of [first, second, null, first])
      check(bytes, model, adapter, await runEncoder(ort, session, TEXTS, await injected.feeds(adapter)))
  })

  it.each(pooled)('%s: padding counts in no mean', async (_, create) => {
    const { first } = adaptersOf(create, ENCODER_LAYERS, ENCODER_TARGETS)
    const injected = await inject(bytes, first, { mask: 'attention_mask' })
    const session = await sessionOf(injected.bytes, ENCODER_LAYERS)
    check(bytes, model, first, await runEncoder(ort, session, TEXTS, await injected.feeds(first)), TEXTS.flags)
  })
})

describe('decoder with a key-value cache', () => {
  const model = tinyDecoder()
  const bytes = decoderOnnx(model)

  it.each(all)('%s: adapters of two ranks and the base, exchanged between calls', async (name, create) => {
    const targets = name === 'Lily, sequence' ? DECODER_TARGETS : [...DECODER_TARGETS, 'down_proj']
    const adapters = adaptersOf(create, DECODER_LAYERS, targets)
    const injected = await inject(bytes, adapters.first)
    const running = new DecoderSession(ort, await sessionOf(injected.bytes, DECODER_LAYERS), 2)
    for (const [ids, name] of CALLS)
      check(bytes, model, adapters[name], await running.call(ids, await injected.feeds(adapters[name], ort.Tensor)))
  })

  it.each(pooled)('%s: padding before a text counts in no mean', async (_, create) => {
    const { first } = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const injected = await inject(bytes, first, { mask: 'attention_mask' })
    const running = new DecoderSession(ort, await sessionOf(injected.bytes, DECODER_LAYERS), 2)
    const padded = [1, 1, 1, 1, 0, 0, 1, 1]
    for (const [ids, flags] of [
      [CALLS[0][0], padded],
      [CALLS[1][0], [1, 1]],
    ] as const)
      check(bytes, model, first, await running.call(ids, await injected.feeds(first), flags), flags)
  })

  it('nodes read what the adapter has added to', async () => {
    const { first } = adaptersOf(KINDS.LoRA, DECODER_LAYERS, ['q_proj'])
    const injected = await inject(bytes, first)
    const logits = async (adapter: AdapterModel | null) => {
      const running = new DecoderSession(ort, await ort.InferenceSession.create(injected.bytes), 2)
      return (await running.call(CALLS[0][0], await injected.feeds(adapter))).logits.data
    }
    expect(await logits(first)).not.toEqual(await logits(null))
  })
})
