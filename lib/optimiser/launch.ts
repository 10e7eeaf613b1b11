/** Runs a step of AdamW. */
import type { Moments } from '../checkpoint/optimiser-state.js'
import type { Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { ADAMW, gpuMatrix, gpuRegion, NO_SIZES, type Region, region } from '../operations/call.js'
import { run } from '../operations/dispatch.js'
import { planStep } from './gpu-step.js'
import type { Rates, Settings } from './options.js'
import type { ParameterOperands } from './parameters.js'

interface AdamWCall {
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

export function runAdamW({ parameters, moments, settings, lrScale, step, norm, skipped, placement }: AdamWCall): void {
  const { beta1, beta2, eps, maxNorm } = settings
  const items = parameters.map(({ name, value, grad }) => {
    const { lr, weightDecay } = settings.rates.get(name) as Rates
    const { expAvg, expAvgSq } = moments.get(name) as Moments
    const operands = { value: flat(value), grad: flat(grad), expAvg: flat(expAvg), expAvgSq: flat(expAvgSq) }
    return { lr: lr * lrScale, weightDecay, operands }
  })
  const problem = { step, beta1, beta2, eps, maxNorm: maxNorm ?? 0, items, sizes: NO_SIZES }
  const operands = items.flatMap(({ operands: { value, grad, expAvg, expAvgSq } }) => [value, grad, expAvg, expAvgSq])
  run({
    calls: [{ kind: ADAMW, problem, operands: [norm && flat(norm), skipped && flat(skipped), ...operands], placement }],
    placement,
    gpu: () => {
      const onGpu = items.map(({ lr, weightDecay, operands: { value, grad, expAvg, expAvgSq } }) => ({
        elements: value.columns,
        lr,
        weightDecay,
        value: gpuMatrix(value),
        grad: gpuMatrix(grad),
        expAvg: gpuRegion(expAvg),
        expAvgSq: gpuRegion(expAvgSq),
      }))
      const plan = planStep({
        ...problem,
        norm: norm && gpuRegion(norm),
        skipped: skipped && gpuRegion(skipped),
        parameters: onGpu,
      })
      return [{ name: 'plan', call: plan }]
    },
  })
}

/** The numbers of a contiguous operand, whatever its shape. */
const flat = (operand: Operand): Region => region(operand, 1, operand.rows * operand.columns, operand.dtype)
