/** A model in ONNX Runtime Web, with an adapter and without. */
import { median } from 'd3-array'
import { type AdapterModel, backends, LilyError } from 'lily-kernels'
import { inject } from 'lily-kernels/onnx'
import type { InferenceSession } from 'onnxruntime-web/webgpu'
import { pause } from '../dom.js'
import { ModelError } from '../errors.js'
import type { OnProgress } from '../task.js'
import { madeUpInputs } from './inputs.js'

/** Runs of each that are timed, after one that is not. */
const ROUNDS = 10

export interface Outcome {
  /** The name of the output that was read. */
  readonly output: string
  readonly base: Runs
  readonly adapted: Runs
}

export interface Runs {
  /** Of a run, the median. */
  readonly seconds: number
  /** The largest difference of any run from the first output of the base model. */
  readonly difference: number
}

/**
 * Runs the base model and the adapter by turns, in one session.
 *
 * @param provider that of ONNX Runtime
 * @throws ModelError, or LilyError or RangeError if memory or a device lacks; the reason of the signal when it aborts
 */
export async function runModel(
  model: Uint8Array | File,
  adapter: AdapterModel,
  provider: 'webgpu' | 'wasm',
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<Outcome> {
  let session: InferenceSession | undefined
  try {
    onProgress('Adding the adapter to the model…', 0)
    await pause()
    const injected = await inject(model, adapter)

    onProgress('Starting ONNX Runtime, of 27 MB…', 0)
    // Apart from the other modules of the page: each thread of ONNX Runtime imports the file that has it.
    const { env, InferenceSession, Tensor } = await import('onnxruntime-web/webgpu')
    env.wasm.numThreads = backends()[0].devices[0].threads!
    // Errors only: that some nodes of a model run beside the GPU is no warning for the reader.
    const options = { executionProviders: [provider], logSeverityLevel: 3 }
    session = await InferenceSession.create(injected.bytes, options)
    const output = session.outputMetadata.find(({ type }) => type === 'float32')?.name
    if (output === undefined) throw new Error('The model has no output of type float32.')

    const ofAdapter = new Set(injected.inputs.map(({ name }) => name))
    const inputs = madeUpInputs(
      session.inputMetadata.filter(({ name }) => !ofAdapter.has(name)),
      Tensor,
    )
    const contenders = [null, adapter].map(async (each) => ({
      feeds: { ...inputs, ...(await injected.feeds(each, Tensor)) },
      times: [] as number[],
      difference: 0,
    }))
    const turns = await Promise.all(contenders)
    let first: Float32Array | undefined
    for (let round = 0; round <= ROUNDS; round++) {
      onProgress('Running…', round / (ROUNDS + 1))
      for (const turn of turns) {
        await pause()
        signal.throwIfAborted()
        const start = performance.now()
        const { [output]: tensor } = await session.run(turn.feeds, [output])
        if (round > 0) turn.times.push((performance.now() - start) / 1e3)
        first ??= tensor.data
        turn.difference = Math.max(turn.difference, largestDifference(tensor.data, first))
      }
    }
    const [base, adapted] = turns.map(({ times, difference }) => ({ seconds: median(times)!, difference }))
    return { output, base, adapted }
  } catch (error) {
    throw signal.aborted || !isOfModel(error) ? error : new ModelError(error)
  } finally {
    await session?.release()
  }
}

/** Whether an error says something about the model, and not about memory or a device. */
const isOfModel = (error: unknown): boolean =>
  error instanceof LilyError
    ? error.code === 'ERR_LILY_ARGUMENT' || error.code === 'ERR_LILY_CHECKPOINT'
    : !(error instanceof RangeError)

const largestDifference = (values: Float32Array, others: Float32Array): number =>
  values.reduce((largest, value, i) => Math.max(largest, Math.abs(value - others[i])), 0)
