/**
 * Calls on a CUDA device, in a process of its own: the emulator writes its counts when the process ends. The command line
 * has the pass and then the jobs, as JSON; count.ts starts it with one, scripts/gpu-verify.js with several.
 */
import { fileURLToPath } from 'node:url'
import { type Routing, Stream, type Tensor } from '../../lib/index.js'
import { makeContenders } from '../contenders.js'
import type { DTypeName } from '../dtypes.js'
import type { Pass } from '../report.js'
import type { Shape } from '../shapes.js'

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
    })
    calls[pass as Pass]()
  }
  await Stream.default({ type: 'cuda' }).synchronize()
}
