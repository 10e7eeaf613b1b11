/** Tiny transformers with adapters in onnxruntime-node: their logits are those of the models computed with this package. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import type { AdapterModel } from '../../lib/index.js'
import { inject, injectFile, type InjectedModel, readInjected } from '../../lib/onnx/index.js'
import { requireLibrary } from '../support/interop.js'
import { withBranches, withExternalData } from '../support/onnx.js'
import {
  type Adapters,
  adaptersOf,
  CALLS,
  DECODER_TARGETS,
  distance,
  ENCODER_TARGETS,
  FLOAT32,
  KINDS,
  TEXTS,
} from '../support/onnx-adapters.js'
import { computeEncoder, ComputedDecoder } from '../support/onnx-compute.js'
import {
  asStored,
  DECODER_LAYERS,
  decoderOnnx,
  ENCODER_LAYERS,
  encoderOnnx,
  tinyDecoder,
  tinyEncoder,
  type TinyModel,
} from '../support/onnx-models.js'
import { DecoderSession, type Ort, runEncoder, type Session } from '../support/onnx-sessions.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let ort: Ort
beforeAll(() => {
  ort = requireLibrary('onnxruntime-node') as Ort
}, 600_000)

const all = Object.entries(KINDS)
const pooled = all.filter(([name]) => name === 'Lily, batch' || name === 'Lily, sequence')

const encoder = tinyEncoder()
const decoder = tinyDecoder()

async function sessionOf(model: Uint8Array | string): Promise<Session> {
  return ort.InferenceSession.create(model, { intraOpNumThreads: 1 })
}

describe('encoder', () => {
  const bytes = encoderOnnx(encoder)
  const base = computeEncoder(encoder, TEXTS, null)

  async function check(session: Session, injected: InjectedModel, adapter: AdapterModel | null, masks = false) {
    const outputs = await runEncoder(ort, session, TEXTS, await injected.feeds(adapter))
    const expected = adapter === null ? base : computeEncoder(encoder, TEXTS, adapter, masks)
    expect(distance(outputs.logits, expected.logits)).toBeLessThan(FLOAT32)
    expect(distance(outputs.hidden, expected.hidden)).toBeLessThan(FLOAT32)
    if (adapter !== null) expect(distance(outputs.logits, base.logits)).toBeGreaterThan(1e3 * FLOAT32)
  }

  it('is computed without an adapter', async () => {
    const outputs = await runEncoder(ort, await sessionOf(bytes), TEXTS)
    expect(distance(outputs.logits, base.logits)).toBeLessThan(FLOAT32)
    expect(distance(outputs.hidden, base.hidden)).toBeLessThan(FLOAT32)
  })

  it.each(all)('%s: two ranks in turn, and the base', async (name, create) => {
    const targets = name === 'Lily, sequence' ? ENCODER_TARGETS : [...ENCODER_TARGETS, 'classifier']
    const { first, second } = adaptersOf(create, ENCODER_LAYERS, targets)
    const injected = await inject(bytes, first)
    const session = await sessionOf(injected.bytes)
    for (const adapter of [first, second, null, first, null, second]) await check(session, injected, adapter)
  })

  it.each(pooled)('%s: padding counts in no mean', async (_, create) => {
    const { first, second } = adaptersOf(create, ENCODER_LAYERS, ENCODER_TARGETS)
    const injected = await inject(bytes, first, { mask: 'attention_mask' })
    const session = await sessionOf(injected.bytes)
    for (const adapter of [first, null, second]) await check(session, injected, adapter, true)
    const [masked, whole] = [true, false].map((masks) => computeEncoder(encoder, TEXTS, first, masks).logits)
    expect(distance(whole, masked)).toBeGreaterThan(1e3 * FLOAT32)
  })
})

/**
 * Compares the logits of all calls with those of the same calls of the model, and with those of the model without an adapter.
 *
 * @param feedsOf the inputs for an adapter
 */
async function expectDecoded(
  running: DecoderSession,
  model: TinyModel,
  feedsOf: (adapter: AdapterModel | null) => Promise<Record<string, unknown>>,
  adapters: Readonly<Record<keyof Adapters, AdapterModel | null>>,
  tolerance = FLOAT32,
): Promise<void> {
  const [computed, base] = [new ComputedDecoder(model, 2), new ComputedDecoder(model, 2)]
  for (const [ids, name] of CALLS) {
    const logits = await running.call(ids, await feedsOf(adapters[name]))
    const expected = computed.call(ids, adapters[name])
    expect(distance(logits, expected), name).toBeLessThan(tolerance)
    const ofBase = base.call(ids, null)
    if (name !== 'base') expect(distance(expected, ofBase), name).toBeGreaterThan(20 * tolerance)
  }
}

describe('decoder with a key-value cache', () => {
  const bytes = decoderOnnx(decoder)

  it('is computed without an adapter', async () => {
    const running = new DecoderSession(ort, await sessionOf(bytes), 2)
    const computed = new ComputedDecoder(decoder, 2)
    for (const [ids] of CALLS) expect(distance(await running.call(ids), computed.call(ids, null))).toBeLessThan(FLOAT32)
  })

  it.each(all)('%s: adapters of two ranks and the base, exchanged between calls', async (name, create) => {
    const targets = name === 'Lily, sequence' ? DECODER_TARGETS : [...DECODER_TARGETS, 'down_proj']
    const adapters = adaptersOf(create, DECODER_LAYERS, targets)
    const injected = await inject(bytes, adapters.first)
    const running = new DecoderSession(ort, await sessionOf(injected.bytes), 2)
    const feedsOf = (adapter: AdapterModel | null) => injected.feeds(adapter, ort.Tensor)
    await expectDecoded(running, decoder, feedsOf, adapters)
  })

  it.each(pooled)('%s: padding before a text counts in no mean', async (_, create) => {
    const { first, second } = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const [masked, whole] = await Promise.all(
      [{ mask: 'attention_mask' }, {}].map((options) => inject(bytes, first, options)),
    )
    const running = new DecoderSession(ort, await sessionOf(masked.bytes), 2)
    const computed = new ComputedDecoder(decoder, 2)
    const padded = [1, 1, 1, 1, 0, 0, 1, 1]
    for (const [[ids], adapter, flags] of [
      [CALLS[0], first, padded],
      [CALLS[1], first, [1, 1]],
      [CALLS[2], second, [1, 1]],
      [CALLS[3], null, [1, 1]],
    ] as const) {
      const logits = await running.call(ids, await masked.feeds(adapter), flags)
      expect(distance(logits, computed.call(ids, adapter, flags))).toBeLessThan(FLOAT32)
    }
    const [[ids]] = CALLS
    const other = new DecoderSession(ort, await sessionOf(whole.bytes), 2)
    const withPadding = await other.call(ids, await whole.feeds(first), padded)
    const expected = new ComputedDecoder(decoder, 2).call(ids, first, padded)
    expect(distance(withPadding, expected)).toBeGreaterThan(1e3 * FLOAT32)
  })

  it('a graph for LoRA computes Lily with constant weights, and the reverse', async () => {
    const [first, second] = [
      adaptersOf(KINDS.LoRA, DECODER_LAYERS, DECODER_TARGETS).first,
      adaptersOf(KINDS['Lily, frozen'], DECODER_LAYERS, DECODER_TARGETS).second,
    ]
    for (const each of [first, second]) {
      const injected = await inject(bytes, each)
      const running = new DecoderSession(ort, await sessionOf(injected.bytes), 2)
      await expectDecoded(running, decoder, (adapter) => injected.feeds(adapter), { first, second, base: null })
    }
  })

  it.each(all)('%s: baked', async (_, create) => {
    const { first } = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const { bytes: baked, inputs } = await inject(bytes, first, { bake: true })
    const session = await sessionOf(baked)
    expect(inputs).toEqual([])
    expect(session.inputNames).toEqual((await sessionOf(bytes)).inputNames)
    const adapters = { first, second: first, base: first }
    await expectDecoded(new DecoderSession(ort, session, 2), decoder, () => Promise.resolve({}), adapters)
  })

  it.each(all)('%s: weights of four bits', async (_, create) => {
    const adapters = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const quantised = decoderOnnx(decoder, { fourBits: true })
    const injected = await inject(quantised, adapters.first)
    const running = new DecoderSession(ort, await sessionOf(injected.bytes), 2)
    const model = asStored(decoder, { fourBits: true })
    await expectDecoded(running, model, (adapter) => injected.feeds(adapter), adapters)
  })

  /**
   * A logit is the end of some 80 operations in a row: 33 in each block, and 10 before and after them. Each may round by
   * 2^-11 of a value, with a standard deviation of at most 2^-11 / sqrt(3). The limit is four times that of their sum.
   */
  const FLOAT16 = (4 * Math.sqrt(80) * 2 ** -11) / Math.sqrt(3)

  it.each(all)('%s: float16', async (_, create) => {
    const storage = { type: 'float16' } as const
    const adapters = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const injected = await inject(decoderOnnx(decoder, storage), adapters.first)
    const running = new DecoderSession(ort, await sessionOf(injected.bytes), 2, 'float16')
    const model = asStored(decoder, storage)
    await expectDecoded(running, model, (adapter) => injected.feeds(adapter), adapters, FLOAT16)
  })

  it.each(all)('%s: a branch for the first call and one for those with a cache', async (_, create) => {
    const adapters = adaptersOf(create, DECODER_LAYERS, DECODER_TARGETS)
    const injected = await inject(withBranches(bytes, 'use_cache_branch'), adapters.first)
    const running = new DecoderSession(ort, await sessionOf(injected.bytes), 2)
    let calls = 0
    const feedsOf = async (adapter: AdapterModel | null) => {
      const use_cache_branch = new ort.Tensor('bool', Uint8Array.of(calls++ > 0 ? 1 : 0), [1])
      return { use_cache_branch, ...(await injected.feeds(adapter)) }
    }
    await expectDecoded(running, decoder, feedsOf, adapters)
  })

  it('a file with external data', async () => {
    const [source, target] = ['model.onnx', 'adapted.onnx'].map((name) => join(folder, name))
    const { model, data } = withExternalData(bytes, 'model.onnx_data')
    writeFileSync(source, model)
    writeFileSync(join(folder, 'model.onnx_data'), data)
    const adapters = adaptersOf(KINDS['Lily, token'], DECODER_LAYERS, DECODER_TARGETS)
    await injectFile(source, target, adapters.first)
    expect(readFileSync(source)).toEqual(Buffer.from(model))
    expect(readFileSync(join(folder, 'model.onnx_data'))).toEqual(Buffer.from(data))
    const injected = await readInjected(target)
    const running = new DecoderSession(ort, await sessionOf(target), 2)
    await expectDecoded(running, decoder, (adapter) => injected.feeds(adapter), adapters)
  })
})
