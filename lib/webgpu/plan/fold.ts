/** The passes of a fold: one for each layer, in order. The sum over several layers is rounded to 16 bits once. */
import type { FoldCall } from '../call.js'
import { dense, type Operand, output, type Pass, type Plan, Workspace, written } from '../pass.js'
import type { Common } from '../wgsl/module.js'
import { foldDeferred } from '../wgsl/fold_deferred.js'
import { sumPartials } from '../wgsl/sum_partials.js'

export function planFold({ experts, rank, dOut, db, layers }: FoldCall): Plan {
  const workspace = new Workspace()
  const target = output(db, experts * rank, dOut)
  const filled = layers.filter(({ partials }) => partials > 0)
  // Without any matrix the gradient is zero, which an accumulating one already contains.
  if (filled.length === 0) {
    const parts = target.accumulate ? [] : [sumPartials('zero', ['none', workspace.take(0, dOut)], ['db', target])]
    return { passes: [{ label: 'fold', parts }], workspaceBytes: workspace.bytes }
  }
  const isDirect = db.dtype === 'float32' || filled.length === 1
  const sum = isDirect ? target : written(workspace.take(experts * rank, dOut))
  const passes = filled.map(({ partials, matrices, weights }, i): Pass => {
    const out: Operand = i === 0 ? sum : { ...sum, accumulate: true }
    const part = foldDeferred({
      matrices: dense(matrices, partials * rank, dOut),
      ...{ weights: weights && dense(weights, partials, experts), out },
    })
    return { label: 'fold', parts: [part] }
  })
  if (!isDirect) {
    const rounded = sumPartials('sum_layers', ['sums', { ...sum, isWritten: false }], ['db', target])
    passes.push({ label: 'fold', parts: [rounded] })
  }
  return { passes, workspaceBytes: workspace.bytes }
}

export const foldCommon = ({ rank }: FoldCall): Common => ({ params: { rank }, floats: {} })
