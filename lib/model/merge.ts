/**
 * Merges the update of a frozen layer into its base weight: W += s C^T A, with C = sum_e w_e B_e.
 *
 * The update is the adapter's gradient of x for dy = I, since dx = s dy C^T A. So it is computed by the backward
 * kernels of either backend, in place, one block of rows at a time. The kernels compute each row of the update
 * completely before they add it to W, so each element is rounded once.
 */
import { checkFloat, checkMatrix } from '../base/checks.js'
import { type DType, type HostData, is16Bit } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { checkPlace, refuseOverlap } from '../memory/checks.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import type { BackwardCall } from '../operations/allocate.js'
import { prepareBackward } from '../operations/backward.js'
import { lilyForward } from '../operations/forward.js'
import { Output } from '../operations/output.js'
import { runBackward } from '../operations/run.js'
import { readSaved } from '../operations/saved.js'
import { fromFloat32, toFloat32 } from '../tensor/numbers.js'
import { resolve } from '../tensor/resolve.js'
import { operandOf, type Tensor, tensor, tensorOf } from '../tensor/tensor.js'
import type { LilyLayer } from './lily-layer.js'

/** Rows per call: enough to keep the kernels busy, few enough that the block of the identity stays small. */
const BLOCK_ROWS = 256

/**
 * Adds `sign` times the layer's update to a weight [d_out, d_in], in place. All blocks are checked before the first one is
 * written.
 */
export function addUpdate(layer: LilyLayer, target: Operand, sign: 1 | -1): void {
  const { inFeatures, outFeatures, scaling, frozenWeights } = layer
  checkWeight(layer, target)
  if (frozenWeights === undefined) {
    fail(
      'ERR_LILY_ARGUMENT',
      'name',
      `expected a frozen layer, but the weights of '${layer.name}' depend on the input; freeze it first`,
    )
  }
  const { dtype, device } = target
  const [a, b] = [layer.a.value, layer.b.value].map((value) => parameterFor(value, dtype))
  const rows = Math.min(BLOCK_ROWS, outFeatures)
  const onDevice = (host: Tensor) => (device === CPU ? host : host.to(device))
  // Row i has its 1 in column outFeatures + i. The window that starts at column outFeatures - k has it in column k + i:
  // these are the rows of the identity from k on.
  const identity = onDevice(shiftedIdentity(rows, outFeatures, dtype))
  const zeros = onDevice(tensor(zerosOf(dtype, rows * inFeatures), [rows, inFeatures], dtype))
  const window = (of: Tensor, count: number, column: number, columns: number) =>
    tensorOf((operandOf(of) as Operand).window(0, count, column, columns))

  const used: { dispose(): void }[] = [identity, zeros]
  const keep = <T extends { dispose(): void }>(temporary: T) => {
    used.push(temporary)
    return temporary
  }
  // Blocks of equal size have the same forward; only the last one may be smaller.
  const options = { routing: 'fixed', weights: frozenWeights, scaling: sign * scaling, precision: 'high' } as const
  const forwardOf = (count: number) => {
    const { y, saved } = lilyForward({ x: keep(window(zeros, count, 0, inFeatures)), a, b }, options)
    keep(y)
    return readSaved('saved', keep(saved), 'lilyForward')
  }
  const whole = forwardOf(rows)
  const calls: BackwardCall[] = []
  for (let row = 0; row < outFeatures; row += rows) {
    const count = Math.min(rows, outFeatures - row)
    const dy = keep(window(identity, count, outFeatures - row, outFeatures))
    const dx = keep(tensorOf(target.window(row, count, 0, inFeatures)))
    calls.push(
      prepareBackward(
        count === rows ? whole : forwardOf(count),
        { dy: resolve('dy', dy), x: null, dx: Output.of('weight', dx), da: null, dRouter: null, db: null },
        { needs: DX_ONLY, deferB: false, accumulate: true, stream: null },
      ),
    )
  }
  for (const call of calls) runBackward(call)
  for (const temporary of used) temporary.dispose()
}

const DX_ONLY = { dx: true, da: false, dRouter: false, db: false } as const

/** Checks the weight: [d_out, d_in], on the model's device, in other memory than the layer's parameters. */
function checkWeight({ inFeatures, outFeatures, a, router, b }: LilyLayer, target: Operand): void {
  checkMatrix('weight', target, outFeatures, inFeatures)
  checkFloat('weight', target)
  for (const parameter of [a, router, b]) {
    parameter.checkValue()
    const value = operandOf(parameter.value) as Operand
    checkPlace('weight', target, 'the model', value)
    refuseOverlap('weight', target, parameter.name, value)
  }
}

/**
 * A parameter in a type that the kernels accept for a weight of `weightType`. On the host 16-bit parameters are
 * converted to float32, so that only the merged weight is rounded.
 */
function parameterFor(value: Tensor, weightType: DType): Tensor {
  if (!is16Bit(value.dtype)) return value
  if (value.device === CPU) return tensor(toFloat32(value.dtype, value.data), value.shape)
  if (value.dtype === weightType) return value
  return fail(
    'ERR_LILY_DTYPE',
    'weight',
    `expected ${value.dtype}, the type of the parameters on the device, got ${weightType}; convert it`,
  )
}

/** [rows, 2 columns]: zero, but for a 1 in column `columns + row` of each row. */
function shiftedIdentity(rows: number, columns: number, dtype: DType): Tensor {
  const data = zerosOf(dtype, rows * 2 * columns)
  const [one] = fromFloat32(dtype, Float32Array.of(1))
  for (let row = 0; row < rows; row++) data[row * 2 * columns + columns + row] = one
  return tensor(data, [rows, 2 * columns], dtype)
}

/** Zeros of a type. Zero has the same bits, all 0, in every type. */
function zerosOf(dtype: DType, length: number): HostData {
  return is16Bit(dtype) ? new Uint16Array(length) : new Float32Array(length)
}
