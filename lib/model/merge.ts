/**
 * Merges the update of a layer into its base weight: W += s C^T A for Lily, with C = sum_e w_e B_e, and W += s B A for
 * LoRA.
 *
 * The update is the adapter's gradient of x for dy = I: dx = s dy C^T A, or s dy B A. So it is computed by the backward
 * kernels of either backend, in place, one block of rows at a time. The kernels compute each row of the update
 * completely before they add it to W, so each element is rounded once.
 */
import { type DType, type HostData, is16Bit } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { CPU } from '../memory/device.js'
import { type Operand, windowOf } from '../memory/operand.js'
import type { BackwardCall } from '../operations/allocate.js'
import { prepareBackward } from '../operations/backward.js'
import { Output } from '../operations/output.js'
import { runBackward } from '../operations/run.js'
import { readSaved, type Saved } from '../operations/saved.js'
import { firstNotFinite, type FloatDType, fromFloat32, toFloat32 } from '../tensor/numbers.js'
import { resolve } from '../tensor/resolve.js'
import { operandOf, type Tensor, tensor, tensorOf } from '../tensor/tensor.js'
import type { Parameter } from './parameter.js'

/** Rows per call: enough to keep the kernels busy, few enough that the block of the identity stays small. */
const BLOCK_ROWS = 256

/** An update of a weight, as the adapter's forward call that has it as its gradient of x. */
export interface Update {
  /** Values of the parameters. */
  readonly a: Tensor
  readonly router?: Tensor | undefined
  readonly b: Tensor
  /** The operation of `forward`. */
  readonly of: 'lilyForward' | 'loraForward'
  /** Runs the call with precision 'high'. The scaling has the sign of the update. */
  readonly forward: (operands: { x: Tensor; a: Tensor; router?: Tensor | undefined; b: Tensor }) => {
    readonly y: Tensor
    readonly saved: Saved
  }
}

/** Adds an update to a weight that was checked, in place. All blocks are prepared before the first one is written. */
export function addUpdate(target: Operand, { a, router, b, of, forward }: Update): void {
  const { dtype, device, rows: outFeatures, columns: inFeatures } = target
  const parameters = {
    a: parameterFor(a),
    b: parameterFor(b),
    ...(router && { router: parameterFor(router) }),
  }
  const rows = Math.min(BLOCK_ROWS, outFeatures)
  const onDevice = (host: Tensor) => (device === CPU ? host : host.to(device))
  // Row i has its 1 in column outFeatures + i. The window that starts at column outFeatures - k has it in column k + i:
  // these are the rows of the identity from k on.
  const identity = onDevice(shiftedIdentity(rows, outFeatures, dtype))
  const zeros = onDevice(tensor(zerosOf(dtype, rows * inFeatures), [rows, inFeatures], dtype))
  const window = (of: Tensor, count: number, column: number, columns: number) =>
    tensorOf(windowOf(operandOf(of) as Operand, 0, count, column, columns))

  const used: { dispose(): void }[] = [identity, zeros]
  const keep = <T extends { dispose(): void }>(temporary: T) => {
    used.push(temporary)
    return temporary
  }
  // Blocks of equal size have the same forward; only the last one may be smaller.
  const forwardOf = (count: number) => {
    const { y, saved } = forward({ x: keep(window(zeros, count, 0, inFeatures)), ...parameters })
    keep(y)
    return readSaved('saved', keep(saved), of)
  }
  const whole = forwardOf(rows)
  const calls: BackwardCall[] = []
  for (let row = 0; row < outFeatures; row += rows) {
    const count = Math.min(rows, outFeatures - row)
    const dy = keep(window(identity, count, outFeatures - row, outFeatures))
    const dx = keep(tensorOf(windowOf(target, row, count, 0, inFeatures)))
    calls.push(
      prepareBackward(
        count === rows ? whole : forwardOf(count),
        {
          dy: resolve('dy', dy),
          x: null,
          dx: Output.of('weight', dx),
          da: null,
          dRouter: null,
          db: null,
          dWeights: null,
        },
        { needs: DX_ONLY, deferB: false, retain: false, accumulate: true, accumulateParameters: true, stream: null },
      ),
    )
  }
  for (const call of calls) runBackward(call)
  for (const temporary of used) temporary.dispose()
}

const DX_ONLY = { dx: true, da: false, dRouter: false, db: false, dWeights: false } as const

/** Checks that the kernels accept a parameter beside a weight of `weightType`; see {@link parameterFor}. */
export function checkParameterType(argument: string, { dtype, device }: Tensor, weightType: DType): void {
  if (!is16Bit(dtype) || device === CPU || dtype === weightType) return
  fail(
    'ERR_LILY_DTYPE',
    argument,
    `expected ${dtype}, the type of the parameters on the device, got ${weightType}; convert it`,
  )
}

/**
 * Checks the parameters of an update in host memory: one NaN would spread over rows of the weight, which `unmerge` cannot
 * restore. Those on a device are not read back for it.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function checkFiniteOnHost(parameters: readonly Parameter[]): void {
  for (const { name, value } of parameters) {
    if (value.device !== CPU) continue
    const index = firstNotFinite(value.dtype as FloatDType, value.data as Float32Array | Uint16Array)
    if (index === -1) continue
    const columns = value.shape[1]
    fail(
      'ERR_LILY_ARGUMENT',
      name,
      `expected finite numbers, got an infinity or NaN at [${Math.floor(index / columns)}, ${index % columns}]; ` +
        'use an earlier checkpoint: the training has diverged',
    )
  }
}

/**
 * A parameter in a type that the kernels accept for the weight, which {@link checkParameterType} has checked. On the host
 * 16-bit parameters are converted to float32, so that only the merged weight is rounded.
 */
function parameterFor(value: Tensor): Tensor {
  if (!is16Bit(value.dtype) || value.device !== CPU) return value
  return tensor(toFloat32(value.dtype, value.data), value.shape)
}

/** `[rows, 2 columns]`: zero, but for a 1 in column `columns + row` of each row. */
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
