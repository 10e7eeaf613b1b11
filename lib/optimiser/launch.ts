/** Runs a step of AdamW. */
import type { Plan } from '../binding/gpu-pass.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { ADAMW, gpuMatrix, gpuRegion, NO_SIZES, type Region, region } from '../operations/call.js'
import { run } from '../operations/dispatch.js'
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
  const { parameters, settings, step, norm, skipped, placement } = call
  const { beta1, beta2, eps, maxNorm } = settings
  const items = parameters.map(({ name, value, grad }) => ({
    ...stepOf(call, name),
    value: flat(value),
    grad: flat(grad),
  }))
  const problem = { step, beta1, beta2, eps, maxNorm: maxNorm ?? 0, items, sizes: NO_SIZES }
  const operands = items.flatMap(({ value, grad, expAvg, expAvgSq }) => [value, grad, flat(expAvg), flat(expAvgSq)])
  run({
    calls: [{ kind: ADAMW, problem, operands: [norm && flat(norm), skipped && flat(skipped), ...operands], placement }],
    placement,
    gpu: () => ({ name: 'plan', call: planOf(call) }),
  })
}

/** The numbers of a contiguous operand, whatever its shape. */
const flat = (operand: Operand): Region => region(operand, 1, operand.rows * operand.columns, operand.dtype)

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
    norm: norm && gpuRegion(norm),
    skipped: skipped && gpuRegion(skipped),
    parameters: call.parameters.map(({ name, value, grad }) => {
      const { lr, weightDecay, expAvg, expAvgSq } = stepOf(call, name)
      return {
        elements: value.rows * value.columns,
        lr,
        weightDecay,
        value: gpuMatrix(value),
        grad: gpuMatrix(grad),
        expAvg: gpuRegion(expAvg),
        expAvgSq: gpuRegion(expAvgSq),
      }
    }),
  })
}
