/**
 * The update of a frozen layer in its base weight: W += s C^T A, C = sum_e w_e B_e.
 *
 * It is the gradient of x that the adapter itself gives for the identity as dy, since dx = s dy C^T A. So the kernels of
 * either backend do it, in place, a block of rows at a time; each row of the update is summed up before it is added.
 */
import { checkFloat, checkMatrix } from '../base/checks.js'
import { type DType, type HostData, is16Bit } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { checkPlace, refuseOverlap } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { lilyBackward } from '../operations/backward.js'
import { lilyForward } from '../operations/forward.js'
import { fromFloat32, toFloat32 } from '../tensor/numbers.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { operandOf, type Tensor, tensor, tensorOf } from '../tensor/tensor.js'
import type { LilyLayer } from './layer.js'

/** Enough rows to keep the kernels busy; the identity's have as many zeros as the weight's block has numbers. */
const BLOCK_ROWS = 256

/** Adds `sign` times the layer's update to a weight. */
export function addUpdate(layer: LilyLayer, weight: TensorLike, sign: 1 | -1): void {
  const { inFeatures, outFeatures, scaling, frozenWeights } = layer
  const target = checkedWeight(layer, weight)
  if (frozenWeights === undefined) {
    fail(
      'ERR_LILY_ARGUMENT',
      'name',
      `'${layer.name}' has a router, whose weights depend on the input; freeze it first`,
    )
  }
  const { dtype, device } = target
  const [a, b] = [layer.a.value, layer.b.value].map((value) => operand(value, dtype))
  const rows = Math.min(BLOCK_ROWS, outFeatures)
  const place = (host: Tensor) => (device === CPU ? host : host.to(device))
  // Ones from column outFeatures of the first row on: the window that begins k columns before it is the identity from row k on.
  const identity = place(shiftedIdentity(rows, outFeatures, dtype))
  const zeros = place(tensor(zerosOf(dtype, rows * inFeatures), [rows, inFeatures], dtype))

  for (let row = 0; row < outFeatures; row += rows) {
    const count = Math.min(rows, outFeatures - row)
    const window = (of: Tensor, from: number, column: number, columns: number) =>
      tensorOf((operandOf(of) as Operand).window(from, count, column, columns))
    const x = window(zeros, 0, 0, inFeatures)
    const dy = window(identity, 0, outFeatures - row, outFeatures)
    const dx = tensorOf(target.window(row, count, 0, inFeatures))
    const options = { routing: 'fixed', weights: frozenWeights, scaling: sign * scaling, precision: 'high' } as const
    const { y, saved } = lilyForward({ x, a, b }, options)
    lilyBackward({ dy, dx }, saved, { needs: { da: false, db: false } })
    for (const used of [x, dy, dx, y, saved]) used.dispose()
  }
  identity.dispose()
  zeros.dispose()
}

function checkedWeight({ inFeatures, outFeatures, a, router, b }: LilyLayer, weight: TensorLike): Operand {
  const target = resolve('weight', weight)
  checkMatrix('weight', target, outFeatures, inFeatures)
  checkFloat('weight', target)
  for (const parameter of [a, router, b]) {
    const value = operandOf(parameter.value) as Operand
    checkPlace('weight', target, 'the model', value)
    refuseOverlap('weight', target, parameter.name, value)
  }
  return target
}

/** A parameter as the kernels take it beside a weight: on the host as float32, so that nothing else is rounded. */
function operand(value: Tensor, weightType: DType): Tensor {
  if (!is16Bit(value.dtype)) return value
  if (value.device === CPU) return tensor(toFloat32(value.dtype, value.data), value.shape)
  if (value.dtype === weightType) return value
  return fail('ERR_LILY_DTYPE', 'weight', `expected ${value.dtype}, as the model on this device has, got ${weightType}`)
}

function shiftedIdentity(rows: number, columns: number, dtype: DType): Tensor {
  const data = zerosOf(dtype, rows * 2 * columns)
  const [one] = fromFloat32(dtype, Float32Array.of(1))
  for (let row = 0; row < rows; row++) data[row * 2 * columns + columns + row] = one
  return tensor(data, [rows, 2 * columns], dtype)
}

/** Zero is all zero bits in every type. */
function zerosOf(dtype: DType, length: number): HostData {
  return is16Bit(dtype) ? new Uint16Array(length) : new Float32Array(length)
}
