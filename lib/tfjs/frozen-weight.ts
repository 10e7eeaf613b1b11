/** A weight that is not trained, in host memory or on a GPUDevice. */
import { add, matMul, reshape, type Tensor, tidy } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { linearBackward, linearForward } from '../operations/linear.js'
import { PackedLinear, packLinear } from '../operations/packed-linear.js'
import { tensor } from '../tensor/tensor.js'
import { tfGpu } from './gpu-memory.js'
import { checkFloat32, computeTensor, type HostTensor, newTensor } from './memory.js'

/** A weight as a layer multiplies it. */
export interface FrozenWeight {
  readonly dIn: number
  readonly dOut: number
  /** The weight as an operand of an adapter's call, which computes the layer, too; null: there is no such call. */
  readonly operand: PackedLinear | null
  /** x weight + bias, of this shape. */
  forward(x: Tensor, bias: Tensor | undefined, shape: number[]): Tensor
  /** dy weight^T, of this shape. */
  gradient(dy: Tensor, shape: number[]): Tensor
}

/**
 * Packed kernels by the `dataId` of their numbers. Numbers of a tensor do not change, and a variable gets another dataId
 * when it is assigned, so an entry is never stale. An entry lives as long as its dataId: nothing has to be released.
 */
const packedKernels = new WeakMap<object, FrozenWeight>()

/**
 * Reads a weight and the bias of a layer.
 *
 * @param argument the name of the weight
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, also if x does not fit; ERR_LILY_DTYPE, ERR_LILY_DEVICE,
 *   ERR_LILY_DISPOSED
 */
export function readFrozen(argument: string, weight: Tensor | PackedLinear, bias: unknown, x: Tensor): FrozenWeight {
  const frozen = weight instanceof PackedLinear ? readPacked(argument, weight) : readKernel(argument, weight)
  const { dIn, dOut } = frozen
  if (x.shape.at(-1) !== dIn) {
    fail('ERR_LILY_SHAPE', 'x', `expected [..., ${dIn}] (${argument} has d_in ${dIn}), got ${shapeText(x.shape)}`)
  }
  if (bias !== undefined) checkBias(bias, dOut)
  return frozen
}

/** The frozen tensors among the inputs of an operation, so that asking for their gradients is an error. */
export function frozenInputs(name: string, weight: Tensor | PackedLinear, bias: Tensor | undefined) {
  const inputs = { ...(weight instanceof PackedLinear ? {} : { [name]: weight }), ...(bias && { bias }) }
  const gradients = { [name]: () => failTrained(name), bias: () => failTrained('bias') }
  return { inputs, gradients }
}

function readPacked(argument: string, packed: PackedLinear): FrozenWeight {
  if (tfGpu() !== null) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      "expected a tensor [d_in, d_out] on the backend 'webgpu', got a PackedLinear, which is in host memory; pass the " +
        'weight as a tensor',
    )
  }
  return hostWeight(packed)
}

function readKernel(argument: string, weight: Tensor): FrozenWeight {
  checkFloat32(argument, weight)
  const { shape, dataId } = weight
  if (shape.length !== 2) fail('ERR_LILY_SHAPE', argument, `expected [d_in, d_out], got ${shapeText(shape)}`)
  const [dIn, dOut] = shape
  if (tfGpu() !== null) return gpuWeight(weight, dIn, dOut)
  const known = packedKernels.get(dataId)
  // A reshaped tensor has the dataId of the original.
  if (known?.dIn === dIn) return known
  // The packed form refers to the numbers, which must stay where they are: dataSync copies them out of a heap.
  const frozen = hostWeight(packLinear(tensor(weight.dataSync(), shape), { transposed: true }))
  packedKernels.set(dataId, frozen)
  return frozen
}

/** A weight in host memory. */
function hostWeight(weight: PackedLinear): FrozenWeight {
  const [dOut, dIn] = weight.shape
  return {
    dIn,
    dOut,
    operand: weight,
    forward: (x, bias, shape) =>
      newTensor(
        computeTensor(bias === undefined ? [x] : [x, bias], shape, (y, x, bias?: HostTensor) => {
          linearForward({ x, weight, bias, y }, { accumulate: false })
        }),
      ),
    gradient: (dy, shape) =>
      newTensor(
        computeTensor([dy], shape, (dx, dy) => {
          linearBackward({ dy, weight, dx }, { accumulate: false })
        }),
      ),
  }
}

/** A weight on a GPUDevice, for which this package has no kernels of linear layers: TensorFlow.js multiplies. */
function gpuWeight(weight: Tensor, dIn: number, dOut: number): FrozenWeight {
  return {
    dIn,
    dOut,
    operand: null,
    forward: (x, bias, shape) =>
      tidy(() => {
        const y = reshape(matMul(reshape(x, [-1, dIn]), weight), shape)
        return bias === undefined ? y : add(y, bias)
      }),
    gradient: (dy, shape) => tidy(() => reshape(matMul(reshape(dy, [-1, dOut]), weight, false, true), shape)),
  }
}

function checkBias(bias: unknown, dOut: number): void {
  checkFloat32('bias', bias)
  if (bias.shape.length === 1 && bias.shape[0] === dOut) return
  fail('ERR_LILY_SHAPE', 'bias', `expected [${dOut}], got ${shapeText(bias.shape)}`)
}

function failTrained(argument: string): never {
  const remedy = 'leave it out of the variables, or use tf.matMul and tf.add to train it'
  fail('ERR_LILY_ARGUMENT', argument, `a gradient was asked for, but the layer is frozen; ${remedy}`)
}
