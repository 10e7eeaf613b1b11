/**
 * What onnxruntime-node computes of the tiny models with an adapter written into them. test/interop compares such graphs with
 * the float64 reference.
 */
import type { AdapterModel } from '../../lib/index.js'
import { inject, type InjectOptions } from '../../lib/onnx/index.js'
import { requireLibrary } from './interop.js'
import { encoderOnnx, tinyEncoder } from './onnx-models.js'
import { type EncoderInputs, type Ort, runEncoder, type Session } from './onnx-sessions.js'

export const ortOfNode = () => requireLibrary('onnxruntime-node') as Ort

export async function bakedSession(
  model: Uint8Array<ArrayBuffer>,
  adapter: AdapterModel | null,
  options: InjectOptions = {},
): Promise<Session> {
  const { bytes } = adapter === null ? { bytes: model } : await inject(model, adapter, { ...options, bake: true })
  return ortOfNode().InferenceSession.create(bytes, { intraOpNumThreads: 1, logSeverityLevel: 3 })
}

/** The outputs of the encoder; with `options.mask`, padding counts in no mean of the adapter. */
export async function encoderOutputs(
  inputs: EncoderInputs,
  adapter: AdapterModel | null,
  options?: InjectOptions,
): Promise<{ logits: Float32Array; hidden: Float32Array }> {
  const session = await bakedSession(encoderOnnx(tinyEncoder()), adapter, options)
  const { logits, last_hidden_state: hidden } = await runEncoder(ortOfNode(), session, inputs)
  return { logits: logits.data, hidden: hidden.data }
}
