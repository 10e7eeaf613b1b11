/** A frozen linear layer as an operation of TensorFlow.js. */
import {
  add,
  matMul,
  reshape,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  type TensorInfo,
  tidy,
} from '@tensorflow/tfjs-core'
import { fail } from '../base/errors.js'
import { shapeText } from '../base/shape.js'
import { linearBackward, linearForward } from '../operations/linear.js'
import { PackedLinear, packLinear } from '../operations/packed-linear.js'
import { tensor } from '../tensor/tensor.js'
import { tfGpu } from './gpu-memory.js'
import { checkFloat32, computeTensor, type HostTensor, newTensor } from './memory.js'
import { refuseNested, runOperation } from './operation.js'

/** A weight as the layer multiplies it. */
interface FrozenWeight {
  readonly dIn: number
  readonly dOut: number
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
 * A linear layer whose weight is not trained: x weight + bias. It is differentiable in x.
 *
 * The first call with a weight packs it, and later calls use the packed form. On the webgpu backend the products are those
 * of TensorFlow.js.
 *
 * @param x [..., d_in], float32
 * @param weight [d_in, d_out], float32, as the kernel of tf.layers.dense; or {@link packLinear} of a weight [d_out, d_in]
 *   as PyTorch stores it
 * @param bias [d_out], float32
 * @returns [..., d_out]
 * @throws LilyError ERR_LILY_ARGUMENT, also if a gradient of weight or bias is asked for; ERR_LILY_SHAPE,
 *   ERR_LILY_DTYPE, ERR_LILY_DISPOSED, ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY
 * @example
 * const base = frozenLinear(x, dense.kernel.read(), dense.bias.read())
 */
export function frozenLinear(x: Tensor, weight: Tensor2D | Tensor | PackedLinear, bias?: Tensor1D | Tensor): Tensor {
  checkFloat32('x', x)
  const frozen = weight instanceof PackedLinear ? readPacked(weight) : readKernel(weight)
  const { dIn, dOut } = frozen
  if (x.shape.at(-1) !== dIn) {
    fail('ERR_LILY_SHAPE', 'x', `expected [..., ${dIn}] (weight has d_in ${dIn}), got ${shapeText(x.shape)}`)
  }
  if (bias !== undefined) checkBias(bias, dOut)

  return runOperation(
    { x, ...(weight instanceof PackedLinear ? {} : { weight }), ...(bias && { bias }) },
    {
      forward: () => frozen.forward(x, bias, [...x.shape.slice(0, -1), dOut]),
      gradients: (dy) => ({
        x: () => {
          refuseNested()
          return frozen.gradient(dy, x.shape)
        },
        weight: () => failTrained('weight'),
        bias: () => failTrained('bias'),
      }),
    },
  )
}

function readPacked(packed: PackedLinear): FrozenWeight {
  if (packed.dtype !== 'float32') fail('ERR_LILY_DTYPE', 'weight', `expected float32, got ${packed.dtype}; convert it`)
  if (tfGpu() !== null) {
    fail(
      'ERR_LILY_DEVICE',
      'weight',
      "expected a tensor [d_in, d_out] on the backend 'webgpu', got a PackedLinear, which is in host memory; pass the " +
        'weight as a tensor',
    )
  }
  const [dOut, dIn] = packed.shape
  return packedWeight(packed, false, dIn, dOut)
}

function readKernel(weight: Tensor2D | Tensor): FrozenWeight {
  checkFloat32('weight', weight)
  const { shape, dataId } = weight
  if (shape.length !== 2) fail('ERR_LILY_SHAPE', 'weight', `expected [d_in, d_out], got ${shapeText(shape)}`)
  const [dIn, dOut] = shape
  if (tfGpu() !== null) return gpuWeight(weight, dIn, dOut)
  const known = packedKernels.get(dataId)
  // A reshaped tensor has the dataId of the original.
  if (known?.dIn === dIn) return known
  // The packed form refers to the numbers, which must stay where they are: dataSync copies them out of a heap.
  const frozen = packedWeight(packLinear(tensor(weight.dataSync(), shape)), true, dIn, dOut)
  packedKernels.set(dataId, frozen)
  return frozen
}

/**
 * A weight in host memory.
 *
 * @param isKernel whether it is [d_in, d_out], as a kernel of TensorFlow.js: its product with x is the backward call of the
 *   weight [d_out, d_in] that the same numbers are, so that no transposed copy is made
 */
function packedWeight(weight: PackedLinear, isKernel: boolean, dIn: number, dOut: number): FrozenWeight {
  const multiply = (x: HostTensor, y: HostTensor, isTransposed: boolean, accumulate: boolean) => {
    if (isTransposed) linearBackward({ dy: x, weight, dx: y }, { accumulate })
    else linearForward({ x, weight, y }, { accumulate })
  }
  return {
    dIn,
    dOut,
    forward: (x, bias, shape) =>
      computeTensor(bias === undefined ? [x] : [x, bias], shape, (y, x, bias?: HostTensor) => {
        if (bias !== undefined) for (let i = 0; i < y.data.length; i += dOut) y.data.set(bias.data, i)
        multiply(x, y, isKernel, bias !== undefined)
      }),
    gradient: (dy, shape) =>
      newTensor(
        computeTensor([dy], shape, (dx, dy) => {
          multiply(dy, dx, !isKernel, false)
        }),
      ),
  }
}

/** A weight on a GPUDevice, for which this package has no kernels of linear layers: TensorFlow.js multiplies. */
function gpuWeight(weight: Tensor, dIn: number, dOut: number): FrozenWeight {
  return {
    dIn,
    dOut,
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
