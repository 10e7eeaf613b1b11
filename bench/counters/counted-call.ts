/**
 * Program that runs calls on a CUDA device. The emulator writes its counts when the process exits. Arguments: the pass,
 * then one or more jobs as JSON. count.ts passes one job, scripts/gpu-verify.js several.
 */
import { fileURLToPath } from 'node:url'
import { type Routing, Stream, type Tensor } from '../../lib/index.js'
import { makeContenders } from '../methods/contenders.js'
import type { Pass } from '../methods/methods.js'
import type { DTypeName } from '../workload/dtypes.js'
import type { Shape } from '../workload/shapes.js'

export const methods = ['batch', 'sequence', 'token', 'uniform', 'lora'] as const

export interface Job {
  readonly shape: Shape
  readonly dtype: DTypeName
  /** A routing of Lily, or LoRA of the same rank. */
  readonly method: (typeof methods)[number]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [pass, ...jobs] = process.argv.slice(2)
  const place = (tensor: Tensor): Tensor => tensor.to({ type: 'cuda' })
  for (const text of jobs) {
    const { method, ...job } = JSON.parse(text) as Job
    const routing: Routing = method === 'lora' ? 'batch' : method
    const contender = method === 'lora' ? 'lora' : 'lily'
    const [calls] = makeContenders([contender], { ...job, routing }, job.shape.rank, () => 1, {
      place,
      keep: (graph) => graph,
      tensorFlow: null,
    })
    calls[pass as Pass]()
  }
  await Stream.default({ type: 'cuda' }).synchronize()
}
