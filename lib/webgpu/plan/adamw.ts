/** The passes of a step of AdamW: with clipping a sum of squares for each parameter and the norm; then the updates. */
import type { AdamWCall } from '../../binding/gpu-call.js'
import { dense, type Operand, type Pass, type Plan, Workspace, written } from '../pass.js'
import { adamwUpdate, gradientNorm, squaresOf, sumOfSquares } from '../wgsl/adamw.js'

export function planAdamW(call: AdamWCall): Plan {
  const workspace = new Workspace()
  const passes: Pass[] = []
  const parameters = call.parameters.filter(({ elements }) => elements > 0)
  const norm = call.norm === null ? null : dense(call.norm, 1, 1)
  if (norm !== null) {
    const counts = parameters.map(({ elements }) => squaresOf(elements))
    const squares = workspace.take(
      1,
      counts.reduce((sum, count) => sum + count, 0),
    )
    let first = 0
    for (const [i, { elements, grad }] of parameters.entries()) {
      const ofParameter: Operand = { ...squares, byteOffset: squares.byteOffset + 4 * first, cols: counts[i] }
      passes.push([sumOfSquares(dense(grad, 1, elements, grad.dtype), written(ofParameter))])
      first += counts[i]
    }
    passes.push([gradientNorm(squares, written(norm))])
  }
  for (const parameter of parameters) {
    const { elements, value, grad, expAvg, expAvgSq } = parameter
    const part = adamwUpdate({
      ...{ value: written(dense(value, 1, elements, value.dtype)), grad: dense(grad, 1, elements, grad.dtype), norm },
      ...{ expAvg: written(dense(expAvg, 1, elements)), expAvgSq: written(dense(expAvgSq, 1, elements)) },
      floats: factorsOf(call, parameter),
    })
    passes.push([part])
  }
  return { passes, workspaceBytes: workspace.bytes }
}

/** The factors of a step, as native/core/adamw.cc forms them: in float64, rounded once. */
function factorsOf(
  { step, beta1, beta2, eps, maxNorm }: AdamWCall,
  { lr, weightDecay }: AdamWCall['parameters'][number],
): Record<string, number> {
  return {
    ...{ beta1, beta1_rest: 1 - beta1, beta2, beta2_rest: 1 - beta2, eps, max_norm: maxNorm },
    root_factor: 1 / Math.sqrt(1 - beta2 ** step),
    ...{ keep: 1 - lr * weightDecay, step_size: lr / (1 - beta1 ** step) },
  }
}
