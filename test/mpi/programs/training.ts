/** Gradients and steps of n ranks with a share of the batch each. */
import * as mpi from 'lily-kernels/mpi'
import { AdamW } from '../../../lib/index.js'
import type { Float } from '../../support/dtypes.js'
import {
  addGradients,
  createModel,
  type Kind,
  KINDS,
  numbersOf,
  SETTINGS,
  shareOf,
  STEPS,
} from '../../support/mpi-training.js'
import { answer, bytesOfAll } from './rank.js'

export interface Trained {
  readonly gradients: Map<string, Float32Array>
  readonly norms: readonly number[]
  readonly values: Map<string, Float32Array>
  readonly bytes: Map<string, Uint8Array>
}
export interface Answer {
  readonly kinds: ReadonlyMap<Kind, Trained>
  readonly sixteenBits: ReadonlyMap<string, Trained>
}

const { rank, size } = await mpi.init()

async function train(kind: Kind, dtype: Float = 'float32'): Promise<Trained> {
  // The values of rank 0 replace those of another seed.
  const model = createModel(kind, dtype, rank === 0 ? 7 : 8)
  await mpi.broadcast(model)
  const first = shareOf(0, rank, size)
  addGradients(model, kind, first, dtype)
  await mpi.averageGradients(model, { weight: first.keptTokens })
  const gradients = numbersOf(model, 'grad')
  model.zeroGrad()
  const optimiser = new AdamW(model.parameters(), { ...SETTINGS, distributed: mpi })
  const norms: number[] = []
  for (let step = 0; step < STEPS; step++) {
    const share = shareOf(step, rank, size)
    addGradients(model, kind, share, dtype)
    await optimiser.step({ weight: share.keptTokens, lrScale: 1 - step / 10 })
    optimiser.zeroGrad()
    norms.push(optimiser.gradNorm!.data[0])
  }
  const values = numbersOf(model, 'value')
  return { gradients, norms, values, bytes: await bytesOfAll(model.parameters(), ({ value }) => value) }
}

const kinds = new Map<Kind, Trained>()
for (const kind of KINDS) kinds.set(kind, await train(kind))
const sixteenBits = new Map<string, Trained>()
for (const dtype of ['bfloat16', 'float16'] as const) {
  for (const kind of ['sequence', 'lora'] as const) sixteenBits.set(`${kind}, ${dtype}`, await train(kind, dtype))
}
const result: Answer = { kinds, sixteenBits }
answer(rank, result)
await mpi.finalize()
