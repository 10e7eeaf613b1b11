/** Adds an adapter to an ONNX model. */
import { toBinary } from '@bufbuild/protobuf'
import { type GraphProto, ModelProtoSchema, TensorProto_DataType as DataType, type TypeProto } from 'onnx-buf'
import { describe, fail } from '../base/errors.js'
import { entriesOf, type Known, readFlag, readProperties } from '../base/options.js'
import { openFile, readPath, replaceFile } from '../checkpoint/disk/disk.js'
import { checkpointError, quote } from '../checkpoint/errors.js'
import type { FileData } from '../checkpoint/file-data.js'
import { type AdapterModel, checkModel } from '../model/adapter-model.js'
import { checkTarget } from './external.js'
import { fedBy } from './feeds.js'
import { findSites } from './find.js'
import { addAdapters } from './graph.js'
import { type InjectedModel, injectedModel } from './injected.js'
import { type InjectedLayer, type Injection, slotsOf, symbolsOf } from './layout.js'
import { type Adapter, adapterOf, type LayerMatrices } from './matrices.js'
import { allocating } from './memory.js'
import { isInjected, KEY, note } from './metadata.js'
import { initializerOf, inputOf, ModelBuilder } from './nodes.js'
import { checkSize, openBytes, readBytes } from './open.js'
import { opsetOf, type OnnxModel, readModel } from './read.js'
import type { Site } from './sites.js'

/** Options of {@link inject} and {@link injectFile}. */
export interface InjectOptions {
  /**
   * The names of layers that the ONNX model names otherwise: by the name of the adapter's layer, the name of its node, or of
   * the weight of the node. Default: all are found by their own names.
   */
  readonly layers?: Readonly<Record<string, string>> | undefined
  /** Write the matrices into the model, which then has no inputs for them. Default false. */
  readonly bake?: boolean | undefined
  /**
   * The input of the ONNX model, [B, N], that is 0 for padding, such as 'attention_mask': routing 'batch' and 'sequence' then
   * leave these tokens out of their means. Of a mask [B, P + N] for N tokens after P earlier ones, as models with a key-value
   * cache have, the last N columns count. Each layer of such a routing must see the tokens of the mask: neither one token of
   * each sequence, like the pooler of an encoder, nor the tokens of another sequence, like the keys of cross-attention. Other
   * routings and LoRA average over no tokens. Default: no token is left out.
   */
  readonly mask?: string | undefined
}

const OPTIONS: Known = new Set<keyof InjectOptions>(['layers', 'bake', 'mask'])

/** The options, read once. */
interface Options {
  readonly layers: Readonly<Record<string, string>>
  readonly bake: boolean
  readonly mask: string | null
}

/**
 * Adds an adapter to an ONNX model, which released versions of onnxruntime-node, onnxruntime-web and Transformers.js then run.
 * The matrices are inputs of the graph, so that a call chooses the adapter: {@link InjectedModel.feeds} has their values.
 * Beside each MatMul, Gemm, MatMulNBits or MatMulInteger of an adapted layer, standard operators compute s h C_g of
 * docs/math.md in float32, for LoRA and for Lily with any routing. Weights stay as they are, quantised ones too.
 *
 * Routing 'batch' and 'sequence' average over the tokens of a call of the session: a decoder with a key-value cache decodes
 * each token in a call of its own.
 *
 * @param bytes the ONNX model. It is not changed, and must not change until the promise resolves. Bytes of its texts that are
 *   not UTF-8 are U+FFFD in the result
 * @param model a LoraModel or a LilyModel; do not change its parameters until the promise resolves
 * @throws LilyError (as a rejection) ERR_LILY_CHECKPOINT for a model that is damaged, or that has operators before opset 11, or an
 *   adapter already, or that would exceed the 2 GiB of protocol buffers: store weights as external data; ERR_LILY_ARGUMENT for
 *   a layer that the model does not have, with the names of nodes that are like it, for a layer of routing 'sequence' without
 *   sequences, for a mask that is no input [B, N], for other arguments of wrong types, and with `bake` for parameters that
 *   are not finite; ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA
 * @example
 * const injected = await inject(await readFile('model.onnx'), adapter)
 * const session = await ort.InferenceSession.create(injected.bytes)
 * const { logits } = await session.run({ input_ids, ...(await injected.feeds(adapter, ort.Tensor)) })
 */
export async function inject(
  bytes: FileData,
  model: AdapterModel,
  options: InjectOptions = {},
): Promise<InjectedModel> {
  checkModel(model)
  const read = readOptions(options)
  const file = openBytes('bytes', bytes)
  return injectInto(file.path, readModel(file.path, await readBytes(file)), model, read)
}

/**
 * Adds an adapter to the file of an ONNX model, as {@link inject} does. Weights may be in other files (external data): these are
 * neither read nor written, and the target must be in the folder of the source, or of what the source is a link to. A failure,
 * or a crash at any time, leaves the target that was there before.
 *
 * @param source path of the ONNX model
 * @param target path of the file to write; it may be the source's
 * @param model a LoraModel or a LilyModel; do not change its parameters until the promise resolves
 * @throws LilyError (as a rejection) as inject; ERR_LILY_ARGUMENT also for a target that is external data, or in another
 *   folder; ERR_LILY_CHECKPOINT also if a file cannot be read or written
 * @example
 * const { inputs } = await injectFile('model.onnx', 'model-adapted.onnx', adapter)
 */
export async function injectFile(
  source: string | URL,
  target: string | URL,
  model: AdapterModel,
  options: InjectOptions = {},
): Promise<InjectedModel> {
  const [from, to] = [readPath('source', source), readPath('target', target)]
  checkModel(model)
  const read = readOptions(options)
  const onnx = readModel(from, await readBytes(await openFile(from)))
  await checkTarget(from, to, onnx.graph)
  const injected = await injectInto(from, onnx, model, read)
  await replaceFile(to, { blocks: () => [injected.bytes] })
  return injected
}

function readOptions(options: InjectOptions): Options {
  return readProperties('options', options, OPTIONS, ({ layers, bake, mask }) => ({
    layers: readLayers(layers),
    bake: readFlag('bake', bake, false),
    mask: mask === undefined ? null : readName('mask', mask),
  }))
}

function readLayers(layers: unknown): Record<string, string> {
  const entries = layers === undefined ? [] : entriesOf('layers', layers as Readonly<Record<string, unknown>>)
  return Object.fromEntries(entries.map(([layer, name]) => [layer, readName('layers', name)]))
}

function readName(argument: string, value: unknown): string {
  if (typeof value === 'string') return value
  return fail('ERR_LILY_ARGUMENT', argument, `expected a name of the ONNX model, got ${describe(value)}`)
}

/** Injects into a model that was parsed for this purpose, and that is written to. */
async function injectInto(
  path: string,
  onnx: OnnxModel,
  model: AdapterModel,
  { layers, bake, mask }: Options,
): Promise<InjectedModel> {
  if (isInjected(onnx)) {
    throw checkpointError(
      path,
      `expected a model without an adapter, got one with metadata ${KEY}; pass the base model`,
    )
  }
  const adapter = await adapterOf(model)
  const sites = findSites(path, onnx, [...model.layers.values()], layers)
  checkRouting(adapter, sites)
  if (mask !== null) checkMask(onnx.graph, mask)
  const builder = new ModelBuilder(onnx, opsetOf(path, onnx))
  const injection = injectionOf(adapter, (name) => builder.unused(name), bake)
  const slots = slotsOf(injection, (name) => fail('ERR_LILY_ARGUMENT', 'model', `expected one shape of ${quote(name)}`))
  for (const { name, dims, values } of bake ? fedBy(injection, slots, adapter) : []) {
    onnx.graph.initializer.push(initializerOf(name, dims, await values()))
  }
  if (!bake) for (const [name, slot] of slots) onnx.graph.input.push(inputOf(name, symbolsOf(slot)))
  addAdapters(builder, sites, injection, mask)
  note(onnx, injection)
  const bytes = await allocating(path, () => toBinary(ModelProtoSchema, onnx))
  checkSize(path, bytes.length)
  return injectedModel(bytes, injection, slots)
}

/** Names for the matrices of an adapter: the names of its parameters, or similar ones where the model has the same. */
function injectionOf(adapter: Adapter, unused: (name: string) => string, isBaked: boolean): Injection {
  const { routing, pool, activation } = adapter
  const known = new Map<unknown, string>()
  const nameOf = (matrix: LayerMatrices['a']) => {
    const name = known.get(matrix) ?? unused(matrix.name)
    known.set(matrix, name)
    return name
  }
  const layers = new Map<string, InjectedLayer>()
  for (const [name, { inFeatures, outFeatures, a, router, b }] of adapter.layers) {
    layers.set(name, {
      ...{ inFeatures, outFeatures },
      a: nameOf(a),
      router: router === null ? null : nameOf(router),
      b: nameOf(b),
    })
  }
  return { routing, pool, activation, isBaked, layers }
}

function checkRouting({ routing, layers }: Adapter, sites: readonly Site[]): void {
  const wrong = sites.find(({ layer, rank }) => layers.get(layer)?.router !== null && rank !== null && rank !== 3)
  if (routing !== 'sequence' || wrong === undefined) return
  fail(
    'ERR_LILY_ARGUMENT',
    'model',
    `expected layers with an input [B, N, d_in] for routing 'sequence', but the input of ${quote(wrong.layer)} has ` +
      `${wrong.rank} dimensions in the ONNX model; do not adapt this layer, or use another routing`,
  )
}

function checkMask({ input, initializer }: GraphProto, mask: string): void {
  const constants = new Set(initializer.map(({ name }) => name))
  const fitting = input.filter(({ name, type }) => !constants.has(name) && isMask(type?.value))
  if (fitting.some(({ name }) => name === mask)) return
  const names = fitting.map(({ name }) => quote(name)).join(', ')
  fail(
    'ERR_LILY_ARGUMENT',
    'mask',
    `expected the name of an input [B, N] of numbers, such as 'attention_mask', got ${quote(mask)}; the ONNX model has ` +
      (names === '' ? 'none' : names),
  )
}

const isMask = (type: TypeProto['value'] | undefined): boolean =>
  type?.case === 'tensorType' &&
  type.value.elemType !== (DataType.STRING as number) &&
  (type.value.shape?.dim.length ?? 2) === 2
