/** Adds an adapter to an ONNX model. */
import type { FileData } from '../checkpoint/file-data.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { InjectedModel } from './injected.js'

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
   * leave these tokens out of their means. Default: no token is left out.
   */
  readonly mask?: string | undefined
}

export function inject(bytes: FileData, model: AdapterModel, options: InjectOptions = {}): Promise<InjectedModel> {
  throw new Error(`to be written: ${typeof bytes} ${typeof model} ${typeof options}`)
}

export function injectFile(
  source: string | URL,
  target: string | URL,
  model: AdapterModel,
  options: InjectOptions = {},
): Promise<InjectedModel> {
  throw new Error(`to be written: ${typeof source} ${typeof target} ${typeof model} ${typeof options}`)
}
