/** What the page uses of ONNX Runtime Web. The checkout has no other types of it, because the package has 140 MB. */
declare module 'onnxruntime-web/webgpu' {
  export const env: { readonly wasm: { numThreads: number } }

  export class Tensor {
    constructor(type: string, data: Float32Array | readonly number[], dims: readonly number[])
    readonly data: Float32Array
  }

  /** An input or an output. */
  interface Value {
    readonly name: string
    readonly type: string
    readonly shape: readonly (number | string)[]
  }

  export class InferenceSession {
    static create(
      bytes: Uint8Array,
      options: { readonly executionProviders: readonly string[]; readonly logSeverityLevel: number },
    ): Promise<InferenceSession>
    readonly inputMetadata: readonly Value[]
    readonly outputMetadata: readonly Value[]
    run(feeds: Readonly<Record<string, Tensor>>, outputs: readonly string[]): Promise<Record<string, Tensor>>
    release(): Promise<void>
  }
}
