/** A weight that is not trained, in host memory or on a GPUDevice. */
import type { Tensor } from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { kernelOnGpu, PackedLinear, packLinear } from '../operations/packed-linear.js'
import { tensor } from '../tensor/tensor.js'
import { currentGpuPlace, tfGpu } from './gpu-memory.js'
import { checkFloat32, floatsOf, hostPlace } from './memory.js'
import type { Place } from './place.js'

/** A weight as a layer multiplies it. */
export interface FrozenWeight {
  readonly dIn: number
  readonly dOut: number
  readonly place: Place
  /** The weight as an operand, for following calls of this package. */
  operand(): WeightOperand
}

/** The weight as an operand. */
export interface WeightOperand {
  readonly operand: PackedLinear
  /** The tensor whose memory it is, which the caller disposes of after the last use; null: memory that the operand keeps. */
  readonly tensor: Tensor | null
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
  if (packed.isDisposed) {
    fail('ERR_LILY_DISPOSED', argument, 'this packed weight is disposed of; use it before dispose()')
  }
  return onHost(packed)
}

function readKernel(argument: string, weight: Tensor): FrozenWeight {
  checkFloat32(argument, weight)
  const { shape, dataId } = weight
  if (shape.length !== 2) fail('ERR_LILY_SHAPE', argument, `expected [d_in, d_out], got ${shapeText(shape)}`)
  const gpu = currentGpuPlace(argument)
  if (gpu !== null) {
    const operand = () => {
      const tensor = gpu.own(weight)
      return { operand: kernelOnGpu(gpu.operandOf(tensor)), tensor }
    }
    return { dIn: shape[0], dOut: shape[1], place: gpu, operand }
  }
  const known = packedKernels.get(dataId)
  // A reshaped tensor has the dataId of the original.
  if (known?.dIn === shape[0]) return known
  // The packed form refers to the numbers, which must stay where they are: readSync copies them out of a heap.
  const packed = packLinear(tensor(floatsOf(weight), shape), { transposed: true })
  const frozen = onHost(packed)
  packedKernels.set(dataId, frozen)
  return frozen
}

function onHost(operand: PackedLinear): FrozenWeight {
  const [dOut, dIn] = operand.shape
  return { dIn, dOut, place: hostPlace, operand: () => ({ operand, tensor: null }) }
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
