/** A weight that is not trained, in host memory or on a GPUDevice. */
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { linearBackward, linearForward } from '../operations/linear.js'
import { kernelOnGpu, PackedLinear, packLinear } from '../operations/packed-linear.js'
import type { TensorLike } from '../tensor/resolve.js'
import { tensor } from '../tensor/tensor.js'
import { currentGpuPlace, tfGpu } from './gpu-memory.js'
import { checkFloat32, floatsOf, hostPlace, newTensor } from './memory.js'
import type { Place } from './place.js'

/** A weight as a layer multiplies it. */
export interface FrozenWeight {
  readonly dIn: number
  readonly dOut: number
  /** The tensor whose memory the calls read; null: they read host memory, which the operand keeps. */
  readonly kernel: Tensor | null
  /** The weight as an operand, for a following call of this package. */
  operand(): PackedLinear
  /** x weight + bias, of this shape. */
  forward(x: Tensor, bias: Tensor | undefined, shape: number[]): TensorInfo
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
  return weightOf(hostPlace, () => packed, null)
}

function readKernel(argument: string, weight: Tensor): FrozenWeight {
  checkFloat32(argument, weight)
  const { shape, dataId } = weight
  if (shape.length !== 2) fail('ERR_LILY_SHAPE', argument, `expected [d_in, d_out], got ${shapeText(shape)}`)
  const gpu = currentGpuPlace(argument)
  if (gpu !== null) {
    const operand = () => {
      checkFloat32(argument, weight)
      return kernelOnGpu(gpu.operandOf(weight))
    }
    return weightOf(gpu, operand, weight)
  }
  const known = packedKernels.get(dataId)
  // A reshaped tensor has the dataId of the original.
  if (known?.dIn === shape[0]) return known
  // The packed form refers to the numbers, which must stay where they are: readSync copies them out of a heap.
  const packed = packLinear(tensor(floatsOf(weight), shape), { transposed: true })
  const frozen = weightOf(hostPlace, () => packed, null)
  packedKernels.set(dataId, frozen)
  return frozen
}

function weightOf(place: Place, operand: () => PackedLinear, kernel: Tensor | null): FrozenWeight {
  const [dOut, dIn] = operand().shape
  return {
    dIn,
    dOut,
    kernel,
    operand,
    forward(x, bias, shape) {
      const weight = operand()
      return place.compute(shape, null, bias === undefined ? [x] : [x, bias], (y, x, bias?: TensorLike) => {
        linearForward({ x, weight, bias, y }, { accumulate: false })
      })
    },
    gradient(dy, shape) {
      const weight = operand()
      const compute = (dx: TensorLike, dy: TensorLike) => {
        linearBackward({ dy, weight, dx }, { accumulate: false })
      }
      return newTensor(place.compute(shape, null, [dy], compute))
    },
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
