/** Sequence offsets in the memory of a GPUDevice, which may be any numbers. */
import { describe, test } from 'vitest'
import {
  checkNaNOutside,
  checkOffsets,
  checkRowsOutside,
  checkValidOffsets,
  problems,
} from '../support/device-offsets.js'

describe.each(problems)('%j', (problem) => {
  test('every output follows from the operands', () => checkOffsets(problem))
  test('NaN outside of all sequences reaches no gradient', () => checkNaNOutside(problem))
  test('rows outside of all sequences stay as they are, or become 0', () => checkRowsOutside(problem))
  test('valid offsets give the bits of those on the host', () => checkValidOffsets(problem))
})
