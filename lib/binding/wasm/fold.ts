/** Prepares a fold: the sum of the deferred gradients of b. */
import { foldFields, foldLayerFields, lengths } from '../descriptor.js'
import type { Memory } from '../native.js'
import * as abi from './abi.js'
import { bindingError } from './errors.js'
import { type Operands, whole } from './operands.js'
import type { Prepared } from './prepare.js'
import { checkCpu, checkLength, FLOAT32_BYTES, MAX_DIMENSION, MAX_EXPERTS, MAX_RANK, size } from './reader.js'

export function prepareFold(
  operands: Operands,
  numbers: Float64Array,
  db: Memory,
  partials: readonly Memory[],
  weights: readonly Memory[],
): Prepared {
  checkLength(numbers, lengths.foldFields + lengths.slotFields + partials.length * lengths.foldLayerFields)
  checkCpu(numbers[foldFields.backend], numbers[foldFields.device])
  const struct = abi.foldStruct
  const dOut = size('d_out', numbers[foldFields.dOut], MAX_DIMENSION)
  const rank = size('rank', numbers[foldFields.rank], MAX_RANK)
  const experts = size('experts', numbers[foldFields.experts], MAX_EXPERTS)
  if (weights.length !== partials.length) {
    throw bindingError('ERR_LILY_ARGUMENT', `weights must be an array of ${partials.length} elements`)
  }
  const call = operands.struct(struct.bytes)
  const layers = operands.struct(partials.length * abi.deferredStruct.bytes)
  for (const [i, partial] of partials.entries()) {
    const field = lengths.foldFields + lengths.slotFields + i * lengths.foldLayerFields
    const layer = layers + i * abi.deferredStruct.bytes
    const count = whole('partials', numbers[field + foldLayerFields.partials])
    const weight = weights[i] ?? null
    if (count < 0 || count > MAX_EXPERTS || (weight === null && count !== experts)) {
      throw bindingError('ERR_LILY_ARGUMENT', 'the number of partials does not match the weights and experts')
    }
    const elements = count * rank * dOut
    operands.int32(
      layer + abi.deferredStruct.partial,
      operands.array('a deferred gradient', partial, 0, elements, FLOAT32_BYTES, 'read'),
    )
    if (weight !== null) {
      const offset = whole('weightsOffset', numbers[field + foldLayerFields.weightsOffset])
      const name = 'weights of a deferred gradient'
      operands.int32(
        layer + abi.deferredStruct.weights,
        operands.array(name, weight, offset, count * experts, FLOAT32_BYTES, 'read'),
      )
    }
    operands.int64(layer + abi.deferredStruct.groups, count)
  }
  operands.int64(call + struct.rank, rank)
  operands.int64(call + struct.experts, experts)
  operands.int64(call + struct.dOut, dOut)
  operands.int32(call + struct.layers, layers)
  operands.int64(call + struct.layerCount, partials.length)
  const types = [abi.dtype.float32, abi.dtype.bfloat16, abi.dtype.float16]
  operands.matrix(call + struct.db, {
    name: 'db',
    memory: db,
    numbers,
    field: lengths.foldFields,
    rows: experts * rank,
    columns: dOut,
    access: 'output',
    types,
  })
  return { entry: 'fold', call, workspace: null }
}
