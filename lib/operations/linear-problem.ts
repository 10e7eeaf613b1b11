/** A call of a frozen linear layer, alone or below an adapter, between reading and running. */
import { checkActivations, checkTokenRows, checkType, checkTypeOrFloat32, checkWeight } from '../base/checks.js'
import type { DType } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { shapeText, type TypedMatrix } from '../base/shape.js'
import { webGpu } from '../binding/devices.js'
import { checkDevice } from '../memory/backends.js'
import { Capture } from '../memory/capture.js'
import { checkPlace, checkSameDevice, refuseOverlap } from '../memory/checks.js'
import { deviceText } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { resolve } from '../tensor/resolve.js'
import { type Call, LINEAR, LINEAR_BACKWARD, NO_SIZES, type Region, type Sized } from './call.js'
import { Output } from './output.js'
import { packedWeightOf } from './packed-linear.js'
import type { Precision } from './problem.js'

/** What determines the packed form of a weight. */
export interface LinearProblem extends Sized {
  /** W as it is in memory. */
  readonly weight: Operand
  /** False: out (+)= in W^T + bias. True: out (+)= in W + bias, a bias not on CUDA devices. */
  readonly transposed: boolean
  /** Type of x and y, or of dy and dx. */
  readonly dtype: DType
  readonly precision: Precision
  /** M */
  readonly tokens: number
}

/** A call that is ready to run, and its result: y, or dx. */
export interface LinearCall {
  readonly call: Call<LinearProblem>
  readonly y: Output
}

/** What a {@link PackedLinear} refers to: a weight and its packed forms. */
export interface PackedWeight {
  readonly weight: Operand
  /** Whether the memory has the weight as [d_in, d_out]. */
  readonly isTransposed: boolean
  readonly isDisposed: boolean
  /** The form that a call with so many tokens uses. It is packed if no call has used it before. Null: it uses none. */
  form(problem: LinearProblem): Region | null
}

/** A weight as an operand of a call, with its packed forms if it has any. */
export interface WeightOperand {
  readonly operand: Operand
  readonly packed: PackedWeight | null
  /** [d_out, d_in], also if the operand is [d_in, d_out]. */
  readonly matrix: TypedMatrix
  /** The version of the operand in the call; null: a graph records the call, whose replays read later ones. */
  readonly version: number | null
}

export function readWeight(value: unknown): WeightOperand {
  const found = packedWeightOf(value)
  const packed = found === undefined ? null : (found ?? failDisposed())
  const operand = packed?.weight ?? resolve('weight', value)
  const matrix = packed?.isTransposed === true ? transposed(operand) : operand
  return { operand, packed, matrix, version: Capture.current === null ? operand.version : null }
}

function transposed({ shape, rows, columns, dtype }: TypedMatrix): TypedMatrix {
  return { shape: [...shape].reverse(), rows: columns, columns: rows, dtype }
}

export function failDisposed(): never {
  fail('ERR_LILY_DISPOSED', 'weight', 'this packed weight is disposed of; use it before dispose()')
}

/** Operands of a call before their checks. */
export interface LinearInputs {
  readonly x: Operand
  readonly weight: WeightOperand
  readonly bias: Operand | null
  readonly y: Output | null
}

export interface LinearSettings {
  readonly precision: Precision
  readonly accumulate: boolean
}

/** The names that the operands of a direction have in error messages, and the size of its x. */
interface Names {
  readonly x: string
  readonly y: string
  readonly size: string
}
const FORWARD: Names = { x: 'x', y: 'y', size: 'd_in' }
const BACKWARD: Names = { x: 'dy', y: 'dx', size: 'd_out' }

/** The second phase of a call: if it throws, nothing has been allocated or written. */
export function checkLinear({ x, weight: of, bias, y }: LinearInputs, transposed: boolean): void {
  const { operand: weight, packed, matrix } = of
  const names = transposed ? BACKWARD : FORWARD
  const isOnGpu = x.device.type === 'webgpu'
  // One on the device is of lily-kernels/tfjs, whose kernels are transposed.
  if (isOnGpu && packed !== null && weight.device !== x.device) {
    fail(
      'ERR_LILY_DEVICE',
      'weight',
      `expected a tensor on ${deviceText(x.device)}, got a PackedLinear, which a GPUDevice does not use; pass the weight ` +
        'as a tensor',
    )
  }
  // The others are compared with x, which a createLily object names itself if it is elsewhere.
  if (webGpu.current !== null) checkDevice(names.x, x.device)
  // This comes before checkPlace, which queries the device for memory that may belong to another device.
  checkSameDevice('weight', weight, names.x, x)
  checkSameDevice('bias', bias, names.x, x)
  checkPlace(names.x, x, names.x, x)
  checkPlace('weight', weight, names.x, x)
  checkPlace('bias', bias, names.x, x)
  if (y !== null) checkPlace(names.y, y.operand, names.x, x)

  checkActivations(x, names.x, names.size)
  checkWeight(matrix)
  const { rows: dOut, columns: dIn } = matrix
  const depth = transposed ? dOut : dIn
  if (x.columns !== depth) {
    const expected = transposed ? `[${x.columns}, d_in]` : `[d_out, ${x.columns}]`
    fail(
      'ERR_LILY_SHAPE',
      'weight',
      `expected ${expected} (${names.x} has ${names.size} ${x.columns}), got ${shapeText(matrix.shape)}`,
    )
  }
  // It may have 16 bits under an x in float32.
  if (x.dtype !== 'float32') checkTypeOrFloat32('weight', weight, x.dtype)
  if (bias !== null) {
    if (bias.shape.length !== 1 || bias.columns !== dOut) {
      fail('ERR_LILY_SHAPE', 'bias', `expected [${dOut}], got ${shapeText(bias.shape)}`)
    }
    checkTypeOrFloat32('bias', bias, weight.dtype)
  }
  if (y === null) return
  checkTokenRows(names.y, y.operand, x.rows, transposed ? dIn : dOut)
  checkType(names.y, y.operand, x.dtype)
  refuseOverlap(names.y, y.operand, names.x, x)
  refuseOverlap(names.y, y.operand, 'weight', weight)
  refuseOverlap(names.y, y.operand, 'bias', bias)
}

/**
 * The third phase: the packed form of the weight, and memory for the result.
 *
 * @param shape of a new result. Default: the leading dimensions of x, or of dy
 */
export function allocateLinear(
  { x, weight: { operand: weight, packed, matrix }, bias, y }: LinearInputs,
  { precision, accumulate }: LinearSettings,
  placement: Placement | null,
  transposed: boolean,
  shape?: readonly number[],
): LinearCall {
  const isTransposed = transposed !== (packed?.isTransposed === true)
  const problem = { weight, transposed: isTransposed, dtype: x.dtype, precision, tokens: x.rows, sizes: NO_SIZES }
  const form = packed?.form(problem) ?? null
  if (y !== null) y.accumulate = accumulate
  const sizes = shape ?? [...x.shape.slice(0, -1), transposed ? matrix.columns : matrix.rows]
  const output = y ?? Output.fresh(transposed ? 'dx' : 'y', x.dtype, sizes, placement)
  const operands = [x, weight, form, bias, output]
  return { call: { kind: transposed ? LINEAR_BACKWARD : LINEAR, problem, operands, placement }, y: output }
}
