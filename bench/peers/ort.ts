/** The part of onnxruntime-node that the benchmark uses. The package is optional, and so are its types. */
import { createRequire } from 'node:module'

export interface OrtTensor {
  readonly data: Float32Array
}

export interface OrtSession {
  /** Writes the outputs to the tensors of `fetches`, memory that exists already. */
  run(feeds: Record<string, OrtTensor>, fetches: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
  release(): Promise<void>
}

export interface Ort {
  readonly Tensor: new (dtype: 'float32', data: Float32Array, shape: readonly number[]) => OrtTensor
  readonly InferenceSession: {
    create(model: Uint8Array, options: Readonly<Record<string, unknown>>): Promise<OrtSession>
  }
  readonly env: { readonly versions: Readonly<Record<string, string | undefined>> }
}

/** @throws if the package is not installed */
export const requireOrt = (): Ort => createRequire(import.meta.url)('onnxruntime-node') as Ort

export const ortVersion = ({ env: { versions } }: Ort): string => versions.node ?? versions.common ?? 'unknown'

export const createSession = ({ InferenceSession }: Ort, model: Uint8Array, threads: number): Promise<OrtSession> =>
  InferenceSession.create(model, {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  })
