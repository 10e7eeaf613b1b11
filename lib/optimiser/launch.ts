/** Runs a step of AdamW in the addon. */
import { adamwFields, adamwParameterFields, lengths } from '../binding/descriptor.js'
import { type Memory, native } from '../binding/native.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { boundMemory, dtypeNumber } from '../operations/launch.js'
import { bindingFor, run } from '../operations/run.js'
import type { Moments } from './moments.js'
import type { Settings } from './options.js'
import type { ParameterOperands } from './parameters.js'

export interface AdamWCall {
  readonly parameters: readonly ParameterOperands[]
  readonly moments: ReadonlyMap<string, Moments>
  readonly settings: Settings
  /** Factor of every learning rate. */
  readonly lrScale: number
  /** The number of this step, from 1. */
  readonly step: number
  /** [1], the norm of all gradients, written; null: nothing is clipped. */
  readonly norm: Operand | null
  readonly placement: Placement | null
}

export function runAdamW(call: AdamWCall): void {
  const { parameters, settings, norm, placement } = call
  const { backend } = native.constants
  const numbers = new Float64Array(lengths.adamwFields + parameters.length * lengths.adamwParameterFields)
  numbers[adamwFields.backend] = placement === null ? backend.cpu : backend.cuda
  numbers[adamwFields.device] = placement?.device.id ?? 0
  numbers[adamwFields.stream] = placement?.stream.cudaStream ?? 0
  numbers[adamwFields.memoryStream] = placement?.stream.memoryStream.cudaStream ?? 0
  numbers[adamwFields.step] = call.step
  numbers[adamwFields.beta1] = settings.beta1
  numbers[adamwFields.beta2] = settings.beta2
  numbers[adamwFields.eps] = settings.eps
  numbers[adamwFields.maxNorm] = settings.maxNorm ?? 0

  const arrays: Memory[] = []
  for (const [i, { name, value, grad }] of parameters.entries()) {
    const rates = settings.rates.get(name)
    const moments = call.moments.get(name)
    if (rates === undefined || moments === undefined) throw new Error(`${name} has no state`)
    const at = lengths.adamwFields + i * lengths.adamwParameterFields
    numbers[at + adamwParameterFields.elements] = value.rows * value.columns
    numbers[at + adamwParameterFields.valueOffset] = value.byteOffset
    numbers[at + adamwParameterFields.valueDtype] = dtypeNumber(value.dtype)
    numbers[at + adamwParameterFields.gradOffset] = grad.byteOffset
    numbers[at + adamwParameterFields.gradDtype] = dtypeNumber(grad.dtype)
    numbers[at + adamwParameterFields.lr] = rates.lr * call.lrScale
    numbers[at + adamwParameterFields.weightDecay] = rates.weightDecay
    for (const { memory } of [value, grad, moments.expAvg, moments.expAvgSq]) arrays.push(boundMemory(memory))
  }
  run(placement, () => {
    bindingFor(placement).adamw(numbers, norm && boundMemory(norm.memory), arrays)
  })
}
