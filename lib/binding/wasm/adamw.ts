/** Prepares a step of AdamW. */
import { adamwFields, adamwParameterFields, lengths } from '../descriptor.js'
import type { Memory } from '../native.js'
import * as abi from './abi.js'
import { bindingError } from './errors.js'
import { elementBytes, type Operands, whole } from './operands.js'
import { type Prepared, query, workspaceOf } from './prepare.js'
import { checkCpu, checkLength, dtypeOf, FLOAT32, FLOAT32_BYTES, size } from './reader.js'

export function prepareAdamW(
  operands: Operands,
  numbers: Float64Array,
  norm: Memory,
  skipped: Memory,
  arrays: readonly Memory[],
): Prepared {
  const { module } = operands
  const count = arrays.length / 4
  if (!Number.isInteger(count)) {
    throw bindingError('ERR_LILY_ARGUMENT', 'arrays must have four arrays for each parameter')
  }
  checkLength(numbers, lengths.adamwFields + count * lengths.adamwParameterFields)
  checkCpu(numbers[adamwFields.backend], numbers[adamwFields.device])
  const struct = abi.adamwStruct
  const call = operands.struct(struct.bytes)
  const parameters = operands.struct(count * abi.adamwParameterStruct.bytes)
  for (let i = 0; i < count; i++) {
    const field = lengths.adamwFields + i * lengths.adamwParameterFields
    const number = (name: keyof typeof adamwParameterFields) => numbers[field + adamwParameterFields[name]]
    const elements = whole('elements', number('elements'))
    const valueType = dtypeOf(number('valueDtype'))
    const gradType = dtypeOf(number('gradDtype'))
    if (gradType !== valueType && gradType !== FLOAT32) {
      throw bindingError('ERR_LILY_DTYPE', "a gradient has its value's dtype or float32")
    }
    const parameter = parameters + i * abi.adamwParameterStruct.bytes
    const place = (to: number, name: string, which: number, offset: number, type: number, writes: boolean) => {
      const access = writes ? 'update' : 'read'
      const bytes = elementBytes(type)
      operands.int32(parameter + to, operands.array(name, arrays[4 * i + which], offset, elements, bytes, access))
    }
    const fields = abi.adamwParameterStruct
    place(fields.value, 'value', 0, whole('valueOffset', number('valueOffset')), valueType, true)
    place(fields.grad, 'grad', 1, whole('gradOffset', number('gradOffset')), gradType, false)
    place(fields.expAvg, 'exp_avg', 2, 0, FLOAT32, true)
    place(fields.expAvgSq, 'exp_avg_sq', 3, 0, FLOAT32, true)
    operands.int64(parameter + fields.count, elements)
    operands.int32(parameter + fields.valueDtype, valueType)
    operands.int32(parameter + fields.gradDtype, gradType)
    module.view.setFloat64(parameter + fields.lr, number('lr') ?? NaN, true)
    module.view.setFloat64(parameter + fields.weightDecay, number('weightDecay') ?? NaN, true)
  }
  operands.int32(call + struct.parameters, parameters)
  operands.int64(call + struct.parameterCount, count)
  module.view.setFloat64(call + struct.beta1, numbers[adamwFields.beta1] ?? NaN, true)
  module.view.setFloat64(call + struct.beta2, numbers[adamwFields.beta2] ?? NaN, true)
  module.view.setFloat64(call + struct.eps, numbers[adamwFields.eps] ?? NaN, true)
  operands.int64(call + struct.step, size('step', numbers[adamwFields.step], 2 ** 53))
  module.view.setFloat32(call + struct.maxNorm, numbers[adamwFields.maxNorm] ?? NaN, true)
  if (norm != null) {
    operands.int32(call + struct.norm, operands.array('norm', norm, 0, 1, FLOAT32_BYTES, 'write'))
  }
  if (skipped != null) {
    operands.int32(call + struct.skipped, operands.array('skipped', skipped, 0, 1, FLOAT32_BYTES, 'update'))
  }
  const bytes = query(module, 'adamwWorkspace', call)
  return { entry: 'adamw', call, workspace: workspaceOf(struct, call, bytes) }
}
