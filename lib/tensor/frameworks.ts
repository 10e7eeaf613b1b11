/** Tensors of frameworks, and clones of tensors of this package, that are no operands as they are. */
import { describe, fail } from '../base/errors.js'
import type { Unknown } from './layout.js'

/** Refuses objects that do not give their memory in this form, and says how to get it. */
export function refuseFramework(argument: string, value: Unknown): void {
  const refuse = (what: string, remedy: string) => {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected a tensor, such as { data: Float32Array, shape }, got ${what}; ${remedy}`,
    )
  }
  if (typeof value.then === 'function') refuse('a promise', 'await it')
  if (typeof value.dataSync === 'function' && 'dataId' in value) {
    refuse(
      'a TensorFlow.js tensor',
      'pass { data: await tensor.data(), shape: tensor.shape }, or fromTf(tensor) of lily-kernels/tfjs',
    )
  }
  const location = value.location
  if (typeof location === 'string' && location !== 'cpu' && location !== 'cpu-pinned') {
    refuse(
      `an ONNX Runtime tensor at location ${describe(location)}`,
      location === 'gpu-buffer'
        ? 'pass { buffer: tensor.gpuBuffer, shape: tensor.dims, dtype } to a createLily object of its GPUDevice, or ' +
            'await its getData() and pass { data, dims, type }'
        : 'await its getData() and pass { data, dims, type }',
    )
  }
  if ('_data' in value && '_size' in value) {
    refuse('a math.js matrix', 'pass { data: Float32Array.from(matrix.toArray().flat()), shape: matrix.size() }')
  }
  if (typeof value.to1DArray === 'function') {
    refuse('an ml-matrix', 'pass { data: Float32Array.from(matrix.to1DArray()), shape: [matrix.rows, matrix.columns] }')
  }
  if (typeof value.data === 'function') {
    refuse(
      'an object whose data is a function',
      'pass what the function returns, such as { data: await x.data(), shape }',
    )
  }
  if (!('data' in value) && !ArrayBuffer.isView(value) && !Array.isArray(value)) {
    if ('y' in value && 'saved' in value) refuse('what forward returned', 'pass its y')
    if ('value' in value && 'grad' in value) refuse('a parameter', 'pass its value')
    if (describe(value) === 'an object of type PackedLinear') {
      refuse('a PackedLinear', 'pass the weight itself, and pack it after merging')
    }
    // The contents of the classes of this package are private, which a structured clone and JSON leave out.
    refuse(
      `${describe(value)} without data`,
      'that is also what postMessage, structuredClone and JSON make of a Tensor: send its { data, shape, dtype }',
    )
  }
  if (typeof value.stride === 'function') {
    refuse('an object whose stride is a function', 'pass { data, shape, strides }')
  }
}
