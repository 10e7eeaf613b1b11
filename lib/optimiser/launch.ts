/** Runs a step of AdamW. */
import { adamwFields, adamwParameterFields, lengths } from '../binding/descriptor.js'
import type { Plan } from '../binding/gpu-pass.js'
import { type Memory, native } from '../binding/native.js'
import { boundMemory } from '../memory/operand-memory.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { run } from '../operations/dispatch.js'
import { isOnGpu, matrixOf, regionOf, runOnGpu } from '../operations/gpu.js'
import { dtypeNumber, writePlacement } from '../operations/launch.js'
import { planStep } from './gpu-step.js'
import type { Moments } from '../checkpoint/optimiser-state.js'
import type { Settings } from './options.js'
import type { ParameterOperands } from './parameters.js'

export interface AdamWCall {
  readonly parameters: readonly ParameterOperands[]
  readonly moments: ReadonlyMap<string, Moments>
  readonly settings: Settings
  /** Factor of every learning rate. */
  readonly lrScale: number
  /** The number of this step, from 1, with the skipped ones. */
  readonly step: number
  /** [1], the norm of all gradients, written; null: nothing is clipped. */
  readonly norm: Operand | null
  /** [1], the number of skipped steps, updated; null: a step is done whatever the gradients are. */
  readonly skipped: Operand | null
  readonly placement: Placement | null
}

export function runAdamW(call: AdamWCall): void {
  const { placement } = call
  if (isOnGpu(placement)) {
    runOnGpu(placement, (gpu, encoder) => {
      gpu.plan(planOf(call), encoder)
    })
    return
  }
  run(placement, () => {
    launch(call)
  })
}

/** What a step does with one parameter. */
function stepOf(
  { settings, moments, lrScale }: AdamWCall,
  name: string,
): { lr: number; weightDecay: number } & Moments {
  const rates = settings.rates.get(name)
  const of = moments.get(name)
  if (rates === undefined || of === undefined) throw new Error(`${name} has no state`)
  return { lr: rates.lr * lrScale, weightDecay: rates.weightDecay, expAvg: of.expAvg, expAvgSq: of.expAvgSq }
}

function planOf(call: AdamWCall): Plan {
  const { beta1, beta2, eps, maxNorm } = call.settings
  const { step, norm, skipped } = call
  return planStep({
    step,
    beta1,
    beta2,
    eps,
    maxNorm: norm === null ? 0 : (maxNorm ?? 0),
    norm: norm && regionOf(norm.memory, 0),
    skipped: skipped && regionOf(skipped.memory, 0),
    parameters: call.parameters.map(({ name, value, grad }) => {
      const { lr, weightDecay, expAvg, expAvgSq } = stepOf(call, name)
      return {
        elements: value.rows * value.columns,
        lr,
        weightDecay,
        value: matrixOf(value),
        grad: matrixOf(grad),
        expAvg: regionOf(expAvg.memory, 0),
        expAvgSq: regionOf(expAvgSq.memory, 0),
      }
    }),
  })
}

/** The same in the addon. */
function launch(call: AdamWCall): void {
  const { parameters, settings, norm, skipped, placement } = call
  const numbers = new Float64Array(lengths.adamwFields + parameters.length * lengths.adamwParameterFields)
  writePlacement(numbers, adamwFields, placement)
  numbers[adamwFields.step] = call.step
  numbers[adamwFields.beta1] = settings.beta1
  numbers[adamwFields.beta2] = settings.beta2
  numbers[adamwFields.eps] = settings.eps
  numbers[adamwFields.maxNorm] = settings.maxNorm ?? 0

  const arrays: Memory[] = []
  for (const [i, { name, value, grad }] of parameters.entries()) {
    const { lr, weightDecay, expAvg, expAvgSq } = stepOf(call, name)
    const at = lengths.adamwFields + i * lengths.adamwParameterFields
    numbers[at + adamwParameterFields.elements] = value.rows * value.columns
    numbers[at + adamwParameterFields.valueOffset] = value.byteOffset
    numbers[at + adamwParameterFields.valueDtype] = dtypeNumber(value.dtype)
    numbers[at + adamwParameterFields.gradOffset] = grad.byteOffset
    numbers[at + adamwParameterFields.gradDtype] = dtypeNumber(grad.dtype)
    numbers[at + adamwParameterFields.lr] = lr
    numbers[at + adamwParameterFields.weightDecay] = weightDecay
    for (const { memory } of [value, grad, expAvg, expAvgSq]) arrays.push(boundMemory(memory))
  }
  native.adamw(numbers, norm && boundMemory(norm.memory), skipped && boundMemory(skipped.memory), arrays)
}
