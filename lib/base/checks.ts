/**
 * Checks of shapes and types that several operations share. They run once all arguments have been read, when no code of
 * the caller can run any more and change what was checked.
 */
import { type DType, is16Bit } from './dtype.js'
import { fail } from './errors.js'
import { MAX_EXPERTS, MAX_RANK } from './limits.js'
import { shapeText, type TypedMatrix } from './shape.js'

/** The kernels index tokens and sequence offsets with 32-bit signed integers. */
const MAX_TOKENS = 2 ** 31 - 1

/** Checks x: [..., d_in] of type float32, bfloat16 or float16; or dy: [..., d_out]. */
export function checkActivations(x: TypedMatrix, argument = 'x', size = 'd_in'): void {
  checkFloat(argument, x)
  if (x.columns < 1) {
    fail('ERR_LILY_SHAPE', argument, `expected [..., ${size}] with ${size} of at least 1, got ${shapeText(x.shape)}`)
  }
  // Without tokens there can be any number of sequences.
  const count = Math.max(x.rows, x.shape.at(-3) ?? 0)
  if (count > MAX_TOKENS) {
    fail('ERR_LILY_SHAPE', argument, `expected at most ${MAX_TOKENS} tokens or sequences, got ${count}; split the call`)
  }
}

/** Checks the weight of a linear layer. */
export function checkWeight(weight: TypedMatrix, expected = '[d_out, d_in]'): void {
  checkFloat('weight', weight)
  if (weight.shape.length === 2 && weight.rows >= 1 && weight.columns >= 1) return
  fail('ERR_LILY_SHAPE', 'weight', `expected ${expected}, each at least 1, got ${shapeText(weight.shape)}`)
}

/** Checks a: [r, d_in]. */
export function checkA(a: TypedMatrix, dIn: number): void {
  checkColumnsOfA(a, dIn)
  checkLimit('a', 'r', a.rows, MAX_RANK)
}

export function checkColumnsOfA(a: TypedMatrix, dIn: number): void {
  if (a.shape.length !== 2 || a.columns !== dIn) {
    fail('ERR_LILY_SHAPE', 'a', `expected [r, ${dIn}] (x has d_in ${dIn}), got ${shapeText(a.shape)}`)
  }
}

/** Checks E, the number of experts that the shape of `argument` gives. */
export function checkExperts(argument: string, experts: number): void {
  checkLimit(argument, 'E', experts, MAX_EXPERTS)
}

function checkLimit(argument: string, name: string, value: number, limit: number): void {
  if (value >= 1 && value <= limit) return
  fail('ERR_LILY_SHAPE', argument, `expected ${name} from 1 to ${limit}, got ${value}`)
}

/** Checks an operand of shape [..., columns] whose leading dimensions, flattened, are the tokens. */
export function checkTokenRows(argument: string, operand: TypedMatrix, tokens: number, columns: number): void {
  if (operand.rows === tokens && operand.columns === columns) return
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected ${tokens} row${tokens === 1 ? '' : 's'} of ${columns}, as [${tokens}, ${columns}] or with more leading dimensions, ` +
      `got ${shapeText(operand.shape)}`,
  )
}

/** Checks an operand of shape [rows, columns]; more leading dimensions are not accepted. */
export function checkMatrix(argument: string, operand: TypedMatrix, rows: number, columns: number): void {
  if (operand.shape.length === 2 && operand.rows === rows && operand.columns === columns) return
  fail('ERR_LILY_SHAPE', argument, `expected ${shapeText([rows, columns])}, got ${shapeText(operand.shape)}`)
}

export function checkShape(argument: string, operand: TypedMatrix, shape: readonly number[]): void {
  const { shape: given } = operand
  if (given.length === shape.length && given.every((size, axis) => size === shape[axis])) return
  fail('ERR_LILY_SHAPE', argument, `expected ${shapeText(shape)}, got ${shapeText(given)}`)
}

/**
 * Checks a stack of experts, b or its gradient: [E, r, d_out] or [E*r, d_out]. Without `dOut` any d_out is accepted.
 */
export function checkExpertStack(
  argument: string,
  operand: TypedMatrix,
  experts: number,
  rank: number,
  dOut?: number,
): void {
  const { shape, rows, columns } = operand
  const stacked = shape.length === 2 || (shape.length === 3 && shape[0] === experts)
  if (stacked && rows === experts * rank && (dOut === undefined ? columns >= 1 : columns === dOut)) return
  const last = dOut ?? 'd_out'
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected [${experts}, ${rank}, ${last}] or [${experts * rank}, ${last}] (E ${experts}, r ${rank}), ` +
      `got ${shapeText(shape)}`,
  )
}

/** Checks that an operand has one of the types that the kernels compute with. */
export function checkFloat(argument: string, operand: TypedMatrix): void {
  const { dtype } = operand
  if (dtype === 'float32' || is16Bit(dtype)) return
  fail('ERR_LILY_DTYPE', argument, `expected float32, bfloat16 or float16, got ${dtype}`)
}

export function checkType(argument: string, operand: TypedMatrix, dtype: DType): void {
  if (operand.dtype === dtype) return
  fail('ERR_LILY_DTYPE', argument, `expected ${dtype}, got ${operand.dtype}; convert it`)
}

/**
 * Checks that a parameter has the type of the activations, or a gradient the type of its parameter. It may also be float32.
 */
export function checkTypeOrFloat32(argument: string, operand: TypedMatrix, dtype: DType): void {
  if (operand.dtype === dtype || operand.dtype === 'float32') return
  const expected = dtype === 'float32' ? 'float32' : `${dtype} or float32`
  fail('ERR_LILY_DTYPE', argument, `expected ${expected}, got ${operand.dtype}; convert it`)
}
