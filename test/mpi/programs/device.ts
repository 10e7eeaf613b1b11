/** Averages, broadcasts and steps on a CUDA device. */
import * as mpi from 'lily-kernels/mpi'
import { AdamW, LilyModel, type Parameter } from '../../../lib/index.js'
import { answer, bytesOfAll, refusalOf, type Refusal } from './rank.js'

export interface Answer {
  readonly start: Map<string, Uint8Array>
  readonly values: Map<string, Uint8Array>
  readonly gradients: Map<string, Uint8Array>
  readonly norm: number
  readonly moments: Map<string, Uint8Array>
  /** In which two calls have ended that were not awaited one by one. */
  readonly order: readonly string[]
  /** Of one rank on the host and the others on the device. */
  readonly mixed: Refusal | null
}

/** Gradients whose sums are exact, so that the test computes them in any order. */
const gradientOf = (parameter: number, index: number, rank: number) => (rank + 1) * ((index % 7) + parameter - 3)

const { rank, size } = await mpi.init()
const cuda = { type: 'cuda' } as const

function modelOf(seed: number): LilyModel {
  const layers = [0, 1].map((l) => ({ name: `${l}.proj`, inFeatures: 8, outFeatures: 8 }))
  const model = LilyModel.create({ layers, config: { r: 4, targetModules: ['proj'], initWeights: false }, seed })
  for (const [p, { grad }] of [...model.parameters().values()].entries()) {
    const data = grad.data as Float32Array
    for (let i = 0; i < data.length; i++) data[i] = gradientOf(p, i, rank)
  }
  return model
}

const valueOf = ({ value }: Parameter) => value
const model = modelOf(rank).to(cuda)
await mpi.broadcast(model)
const start = await bytesOfAll(model.parameters(), valueOf)
const optimiser = new AdamW(model.parameters(), { lr: 0.1, maxNorm: 1, distributed: mpi })
await optimiser.step({ weight: rank + 1 })
const norm = (await optimiser.gradNorm!.toHost()).data[0]
const values = await bytesOfAll(model.parameters(), valueOf)
const gradients = await bytesOfAll(model.parameters(), ({ grad }) => grad)
if (rank > 0) optimiser.load(new AdamW(model.parameters()).state())
await mpi.broadcast(optimiser)
const moments = await bytesOfAll(new Map(Object.entries(optimiser.state().parameters)), ({ expAvg }) => expAvg)

const mixed = await refusalOf(() => mpi.averageGradients(rank === size - 1 ? modelOf(3) : model))

// The second call waits for the copies of the first.
const order: string[] = []
await Promise.all([
  mpi.averageGradients(model).then(() => order.push('average')),
  mpi.allGather(rank).then(() => order.push('gather')),
])

const result: Answer = { start, values, gradients, norm, moments, order, mixed }
answer(rank, result)
await mpi.finalize()
