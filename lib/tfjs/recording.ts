/** What {@link variableGrads} records besides the tape of TensorFlow.js. */
import { engine, type Scalar, type Tensor, type Variable } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import type { AdapterLayer, AdapterSaved } from '../model/adapter-layer.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { Place } from './place.js'

/** A call of an adapter that is recorded for backward. */
export interface RecordedCall {
  readonly layer: AdapterLayer
  readonly place: Place
  /** The x of forward: a tensor of its own over the same numbers. */
  readonly x: Tensor
  /** Small operands that `saved` refers to, and the kernel on a GPUDevice. */
  readonly small: readonly Tensor[]
  readonly saved: AdapterSaved
  /** Whether backward has run. */
  isDone: boolean
}

export interface Recording {
  readonly models: readonly AdapterModel[]
  readonly variables: readonly Variable[]
  /**
   * Zero, a variable on which each recorded call formally depends. TensorFlow.js drops operations that no variable
   * reaches, and parameters of adapters are no variables of it.
   */
  readonly anchor: Variable & Scalar
  readonly calls: RecordedCall[]
}

/** The one in progress; null if no gradient is being recorded, or TensorFlow.js records one by itself. */
let current: Recording | null = null

/** Runs `f` with a recording, and releases what its calls have kept. */
export function withRecording<T>(recording: Recording, f: () => T): T {
  const previous = current
  current = recording
  try {
    return f()
  } finally {
    current = previous
    for (const call of recording.calls) release(call)
  }
}

/** Calling it again has no effect. */
export function release({ x, small, saved }: RecordedCall): void {
  saved.dispose()
  for (const tensor of [x, ...small]) tensor.dispose()
}

/**
 * The recording to which a call adds; null: the call keeps nothing.
 *
 * @param training as in the options of `adapt`
 * @throws LilyError ERR_LILY_ARGUMENT if a gradient would be lost
 */
export function recordingFor(layer: AdapterLayer, training: boolean | undefined): Recording | null {
  if (training === false) return null
  const recording = current
  if (recording === null) {
    if (training === true) fail('ERR_LILY_ARGUMENT', 'training', `true is for ${INSIDE}; leave training out`)
    if (engine().isTapeOn()) {
      fail(
        'ERR_LILY_ARGUMENT',
        'training',
        `TensorFlow.js records a gradient by itself, and would drop the adapter's: use ${INSIDE}, ` +
          'or AdapterOptimizer; pass training: false if no gradient is needed',
      )
    }
    return null
  }
  if (recording.models.some((model) => model.layers.get(layer.name) === layer)) return recording
  return fail(
    'ERR_LILY_ARGUMENT',
    'layer',
    `expected a layer of a model that variableGrads was given, got '${layer.name}' of another one; pass its model too`,
  )
}

const INSIDE = 'calls inside variableGrads of lily-kernels/tfjs'
