/** The pass of the rows of a list that no call has. */
import type { Rest } from '../../binding/gpu-call.js'
import { dense, output, type Plan, Workspace } from '../../binding/gpu-pass.js'
import { sumPartials } from '../wgsl/sum_partials.js'

/** Sums of nothing. */
export function planRest({ out, rows, cols, index, count }: Rest): Plan {
  const workspace = new Workspace()
  const listed = { index: dense(index, 1, count, 'int32'), rows, scale: null }
  const zeros = { ...output(out, count, cols), listed }
  return { passes: [[sumPartials('rest', ['none', workspace.take(0, cols)], ['out', zeros])]], workspaceBytes: 0 }
}
