/** The passes of a fold: one for every three layers, in order. The sum over several layers is rounded to 16 bits once. */
import type { FoldCall } from '../../binding/gpu-call.js'
import { dense, type Operand, output, type Pass, type Plan, Workspace, written } from '../../binding/gpu-pass.js'
import type { Common } from '../wgsl/module.js'
import { foldDeferred } from '../wgsl/fold_deferred.js'
import { sumPartials } from '../wgsl/sum_partials.js'

/** Layers of a pass: their matrices, their weights and the sum are seven buffers, of the eight that every device binds. */
const LAYERS = 3

export function planFold({ experts, rank, dOut, db, layers }: FoldCall): Plan {
  const workspace = new Workspace()
  const target = output(db, experts * rank, dOut)
  const filled = layers.filter(({ partials }) => partials > 0)
  // Without any matrix the gradient is zero, which an accumulating one already contains.
  if (filled.length === 0) {
    const parts = target.accumulate ? [] : [sumPartials('zero', ['none', workspace.take(0, dOut)], ['db', target])]
    return { passes: [parts], workspaceBytes: workspace.bytes }
  }
  const isDirect = db.dtype === 'float32' || filled.length === 1
  const sum = isDirect ? target : written(workspace.take(experts * rank, dOut))
  const passes: Pass[] = []
  for (let first = 0; first < filled.length; first += LAYERS) {
    const layers = filled.slice(first, first + LAYERS).map(({ partials, matrices, weights }) => ({
      matrices: dense(matrices, partials * rank, dOut),
      weights: weights && dense(weights, partials, experts),
    }))
    const out: Operand = first === 0 ? sum : { ...sum, accumulate: true }
    passes.push([foldDeferred(layers, out)])
  }
  if (!isDirect) {
    const rounded = sumPartials('sum_layers', ['sums', { ...sum, isWritten: false }], ['db', target])
    passes.push([rounded])
  }
  return { passes, workspaceBytes: workspace.bytes }
}

export const foldCommon = ({ rank }: FoldCall): Common => ({ params: { rank }, floats: {} })
