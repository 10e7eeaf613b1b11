/**
 * Program that runs calls on a CUDA device. The emulator writes its counts when the process exits. Arguments: the pass,
 * then one or more jobs as JSON. count.ts passes one job, scripts/gpu-verify.js several.
 */
import { fileURLToPath } from 'node:url'
import { loraForward, type Routing, Stream, type Tensor } from '../../lib/index.js'
import { makeContenders } from '../methods/contenders.js'
import type { Pass } from '../methods/methods.js'
import { type DTypeName, dtypes } from '../workload/dtypes.js'
import { makeActivations, makeLoraParameters } from '../workload/operands.js'
import type { Shape } from '../workload/shapes.js'

export const methods = ['batch', 'sequence', 'token', 'uniform', 'lora'] as const

export interface Job {
  readonly shape: Shape
  readonly dtype: DTypeName
  /** A routing of Lily, or LoRA of the same rank. */
  readonly method: (typeof methods)[number]
  /** LoRA: so many adapters of that rank divide the tokens. Forward alone. */
  readonly adapters?: number
  /** They take turns; otherwise one follows the other. */
  readonly scattered?: boolean
}

const place = (tensor: Tensor): Tensor => tensor.to({ type: 'cuda' })

function callAdapters({ shape, dtype, scattered }: Job, adapters: number): void {
  const { tokens, d, rank } = shape
  const { x, y } = makeActivations(shape, dtypes[dtype], place)
  const { a, b } = makeLoraParameters(d, adapters * rank, dtypes[dtype].parameters, place)
  const rankOffsets = Int32Array.from({ length: adapters + 1 }, (_, k) => k * rank)
  const adapterOf = Int32Array.from({ length: tokens }, (_, t) =>
    scattered ? t % adapters : Math.floor((t * adapters) / tokens),
  )
  loraForward({ x, a, b, y }, { rankOffsets, adapterOf })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [pass, ...jobs] = process.argv.slice(2)
  for (const text of jobs) {
    const { method, adapters, ...job } = JSON.parse(text) as Job
    if (adapters !== undefined) {
      callAdapters({ method, ...job }, adapters)
      continue
    }
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
