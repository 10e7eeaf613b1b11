/**
 * Adapters in ONNX models: onnxruntime-node, onnxruntime-web and Transformers.js run them, and exchange adapters from call to
 * call.
 *
 * @module lily-kernels/onnx
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export { inject, injectFile, type InjectOptions } from './inject.js'
export { type InjectedModel, type OnnxInput, type OnnxTensor, type OnnxTensorClass, readInjected } from './injected.js'

registerHost()
