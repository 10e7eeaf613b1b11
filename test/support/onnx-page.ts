/** The tiny models with adapters in sessions of ONNX Runtime: a page and the test that compares it with Node.js run this. */
import { inject } from '../../lib/onnx/index.js'
import { type Adapters, adaptersOf, CALLS, KINDS, TEXTS } from './onnx-adapters.js'
import { DECODER_LAYERS, decoderOnnx, ENCODER_LAYERS, encoderOnnx, tinyDecoder, tinyEncoder } from './onnx-models.js'
import { DecoderSession, type Ort, runEncoder, type Session } from './onnx-sessions.js'

/** A model, and what is added to it. */
export interface Injection {
  /** One of {@link KINDS}. */
  readonly kind: string
  readonly targets: readonly string[]
  /** Whether padding counts in no mean of the adapter. */
  readonly masks?: boolean
}

/** The adapters of the encoder's turns in a session. */
const TURNS: readonly (keyof Adapters)[] = ['first', 'second', 'base', 'first']

/** Returns the logits of each of {@link TURNS}. */
export async function runEncoders(
  ort: Ort,
  provider: string,
  { kind, targets, masks }: Injection,
): Promise<number[][]> {
  const adapters = adaptersOf(KINDS[kind], ENCODER_LAYERS, targets)
  const options = masks === true ? { mask: 'attention_mask' } : {}
  const injected = await inject(encoderOnnx(tinyEncoder()), adapters.first, options)
  const session = await sessionOf(ort, provider, injected.bytes)
  const all: number[][] = []
  for (const name of TURNS) {
    const { logits } = await runEncoder(ort, session, TEXTS, await injected.feeds(adapters[name], ort.Tensor))
    all.push([...logits.data])
  }
  return all
}

/** Returns the logits of each of {@link CALLS}. */
export async function runDecoder(ort: Ort, provider: string, { kind, targets }: Injection): Promise<number[][]> {
  const adapters = adaptersOf(KINDS[kind], DECODER_LAYERS, targets)
  const injected = await inject(decoderOnnx(tinyDecoder()), adapters.first)
  const running = new DecoderSession(ort, await sessionOf(ort, provider, injected.bytes), 2)
  const all: number[][] = []
  // Objects in place of tensors, which sessions accept, too.
  for (const [ids, name] of CALLS)
    all.push([...(await running.call(ids, await injected.feeds(adapters[name]))).logits.data])
  return all
}

/** It logs errors only: that some nodes run beside the GPU is no warning. */
const sessionOf = (ort: Ort, provider: string, model: Uint8Array): Promise<Session> =>
  ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 })
