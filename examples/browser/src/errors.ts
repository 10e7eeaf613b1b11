/** Errors in plain words. */
import { LilyError } from 'lily-kernels'
import { h, notice } from './dom.js'
import { mebibytes } from './format.js'

export interface Explained {
  readonly title: string
  /** What it means and what to do. */
  readonly text: string
  /** The message of the error. */
  readonly message: string
}

/** The parts of an error that a Worker can send. */
export interface SentError {
  readonly code: string
  readonly message: string
}

/** What went wrong with a model of ONNX. */
export class ModelError extends Error {
  readonly code = 'ModelError'

  constructor(cause: unknown) {
    super(messageOf(cause), { cause })
  }
}

export function toSend(error: unknown): SentError {
  if (error instanceof LilyError || error instanceof ModelError) return { code: error.code, message: error.message }
  return { code: error instanceof RangeError ? 'RangeError' : '', message: messageOf(error) }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** @param limits those of the device that was in use, if it was one of WebGPU */
export function explain(error: unknown, limits?: GPUSupportedLimits): Explained {
  return explainSent(toSend(error), limits)
}

export function explainSent({ code, message }: SentError, limits?: GPUSupportedLimits): Explained {
  const limit = /\b(maxBufferSize|maxStorageBufferBindingSize)\b/.exec(message)?.[1] as
    'maxBufferSize' | 'maxStorageBufferBindingSize' | undefined
  if (limit !== undefined) {
    const most = limits === undefined ? '' : `, ${mebibytes(limits[limit])}`
    return {
      title: 'This is too large for the GPU device.',
      text:
        `A buffer would exceed the device's limit ${limit}${most}. Choose fewer tokens, fewer features or a smaller rank, ` +
        'or compute on WebAssembly.',
      message,
    }
  }
  switch (code) {
    case 'ERR_LILY_CHECKPOINT':
      return {
        title: 'These files are no adapter that this page can read.',
        text:
          'It reads folders of PEFT with a Lily or a LoRA adapter: adapter_config.json and adapter_model.safetensors. ' +
          'The message says what is wrong.',
        message,
      }
    case 'ModelError':
      return {
        title: 'This model does not run with this adapter.',
        text:
          'The layers of the adapter must be those of the model, by their names and sizes. The page makes inputs for models ' +
          'that take one sequence of tokens. The message says what is wrong.',
        message,
      }
    case 'ERR_LILY_OUT_OF_MEMORY':
    case 'RangeError':
      return {
        title: 'The memory is exhausted.',
        text: 'Choose fewer tokens, fewer features or a smaller rank, or close other pages.',
        message,
      }
    case 'ERR_LILY_DEVICE':
      return {
        title: 'The GPU device cannot be used.',
        text: 'Request it again under “Where it runs”, or compute on WebAssembly.',
        message,
      }
    default:
      return { title: 'This did not work.', text: 'The message says why.', message }
  }
}

/** An error as the page shows it. */
export function errorNotice({ title, text, message }: Explained, ...actions: readonly HTMLElement[]): HTMLElement {
  return notice('error', title, h('p', {}, text), h('p', { class: 'message' }, message), ...actions)
}
