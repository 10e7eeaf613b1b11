/** The optimiser's call into the binding. */
import { type Memory, native } from '../binding/native.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { boundMemory, dtypeNumber, positions, run } from '../operations/launch.js'
import type { Moments } from './moments.js'
import type { Settings } from './options.js'
import type { ParameterOperands } from './parameters.js'

const FIELDS = native.adamwFields.length
const PARAMETER_FIELDS = native.adamwParameterFields.length

const field = positions(native.adamwFields, [
  'backend',
  'device',
  'stream',
  'home',
  'step',
  'beta1',
  'beta2',
  'eps',
  'maxNorm',
])
const parameterField = positions(native.adamwParameterFields, [
  'elements',
  'valueOffset',
  'valueDtype',
  'gradOffset',
  'gradDtype',
  'lr',
  'weightDecay',
])

export interface AdamWCall {
  readonly parameters: readonly ParameterOperands[]
  readonly moments: ReadonlyMap<string, Moments>
  readonly settings: Settings
  /** Multiplies every learning rate. */
  readonly lrScale: number
  /** This one, from 1. */
  readonly step: number
  /** [1], out; null: nothing is clipped. */
  readonly norm: Operand | null
  readonly placement: Placement | null
}

export function runAdamW(call: AdamWCall): void {
  const { parameters, settings, norm, placement } = call
  const { backend } = native.constants
  const numbers = new Float64Array(FIELDS + parameters.length * PARAMETER_FIELDS)
  numbers[field.backend] = placement === null ? backend.cpu : backend.cuda
  numbers[field.device] = placement?.device.id ?? 0
  numbers[field.stream] = placement?.stream.cudaStream ?? 0
  numbers[field.home] = placement?.stream.memoryStream.cudaStream ?? 0
  numbers[field.step] = call.step
  numbers[field.beta1] = settings.beta1
  numbers[field.beta2] = settings.beta2
  numbers[field.eps] = settings.eps
  numbers[field.maxNorm] = settings.maxNorm ?? 0

  const arrays: Memory[] = []
  for (const [i, { name, value, grad }] of parameters.entries()) {
    const rates = settings.rates.get(name)
    const moments = call.moments.get(name)
    if (rates === undefined || moments === undefined) throw new Error(`${name} has no state`)
    const at = FIELDS + i * PARAMETER_FIELDS
    numbers[at + parameterField.elements] = value.rows * value.columns
    numbers[at + parameterField.valueOffset] = value.byteOffset
    numbers[at + parameterField.valueDtype] = dtypeNumber(value.dtype)
    numbers[at + parameterField.gradOffset] = grad.byteOffset
    numbers[at + parameterField.gradDtype] = dtypeNumber(grad.dtype)
    numbers[at + parameterField.lr] = rates.lr * call.lrScale
    numbers[at + parameterField.weightDecay] = rates.weightDecay
    arrays.push(...[value, grad, moments.expAvg, moments.expAvgSq].map(({ memory }) => boundMemory(memory)))
  }
  run(placement, () => {
    native.adamw(numbers, norm && boundMemory(norm.memory), arrays)
  })
}
