/**
 * An operation of this package on the tape of TensorFlow.js.
 *
 * `customGrad` computes the gradients of all inputs, whether a variable depends on them or not, and it does not say which
 * ones are used. A kernel with a registered gradient has one function for each input, and TensorFlow.js calls it for
 * the inputs that its variables reach. So dx is computed only where it is needed, and an input that has no gradient
 * throws an error instead of stopping the gradient silently.
 */
import {
  dispose,
  engine,
  getBackend,
  getGradient,
  getKernel,
  type NamedTensorMap,
  registerGradient,
  registerKernel,
  type Tensor,
  type TensorInfo,
} from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'

/** All operations are one kernel, whose attributes are these functions. */
interface Attributes {
  forward(): TensorInfo
  readonly gradients: (dy: Tensor) => Gradients
  /** What `forward` has kept for `gradients`: TensorFlow.js disposes of it with the tape, whether it has used it or not. */
  readonly kept?: readonly Tensor[]
}

/** The gradient of each input, by its name. */
export type Gradients = Record<string, () => Tensor>

/**
 * Name of the kernel. The registry is global, and copies of this package share the entry: the name changes with
 * {@link Attributes}.
 */
const NAME = 'LilyKernels1'

function register(): void {
  const backendName = getBackend()
  if (getKernel(NAME, backendName) == null) {
    const kernelFunc = ({ attrs }: { attrs?: unknown }) => (attrs as Attributes).forward()
    registerKernel({ kernelName: NAME, backendName, kernelFunc })
  }
  if (getGradient(NAME) != null) return
  const gradFunc = (dy: Tensor | Tensor[], _: Tensor[], attrs: unknown) => (attrs as Attributes).gradients(dy as Tensor)
  registerGradient({ kernelName: NAME, gradFunc })
}

/**
 * Runs an operation, which is recorded if a gradient is being recorded.
 *
 * @param inputs what its gradients are asked for
 */
export function runOperation(inputs: NamedTensorMap, attributes: Attributes): Tensor {
  register()
  const result = engine().runKernel<Tensor>(NAME, inputs, attributes as never)
  // As inputsToSave of a registered gradient, which copies what it saves on the wasm backend.
  if (attributes.kept !== undefined && engine().isTapeOn()) {
    engine()
      .state.activeTape.at(-1)
      ?.saved?.push(...attributes.kept)
  }
  return result
}

/** Disposes of what a gradient has kept that threw an error. TensorFlow.js does so only after a gradient without one. */
export function releaseTape(): void {
  const state = engine().state as { activeTape: { saved?: Tensor[] }[] | null; gradientDepth: number }
  if (state.gradientDepth > 0) return
  for (const { saved } of state.activeTape ?? []) dispose(saved)
  state.activeTape = null
}

/** Gradients are not recorded themselves, so that a gradient of one would be zero without an error. */
export function refuseNested(): void {
  if (!engine().isTapeOn()) return
  fail('ERR_LILY_ARGUMENT', 'f', 'a gradient of a gradient was asked for, which this package does not compute')
}
