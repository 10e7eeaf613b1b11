/** Gradients and steps of n ranks with a share of the batch each. */
import * as mpi from 'lily-kernels/mpi'
import { AdamW, type AdamWOptions, tensor, type TrainableParameter } from '../../../lib/index.js'
import type { Float } from '../../support/dtypes.js'
import {
  addGradients,
  createModel,
  type Kind,
  KINDS,
  numbersOf,
  SETTINGS,
  shareOf,
} from '../../support/mpi-training.js'
import { answer, bytesOfAll, refusalOf, type Refusal } from './rank.js'

export interface Trained {
  readonly gradients: Map<string, Float32Array>
  readonly norms: readonly number[]
  readonly values: Map<string, Float32Array>
  readonly bytes: Map<string, Uint8Array>
}
export interface Stepped {
  readonly refusals: readonly (Refusal | null)[]
  readonly bytes: Map<string, Uint8Array>
  readonly stepCount: number
  readonly skippedSteps: number
}
export interface Answer {
  readonly kinds: ReadonlyMap<Kind, Trained>
  readonly sixteenBits: ReadonlyMap<string, Trained>
  readonly notFinite: Readonly<Record<NonNullable<AdamWOptions['onNonFinite']>, Stepped>>
  readonly summed: Map<string, Uint8Array>
  readonly twice: Refusal | null
}

export const STEPS = 4

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

const parametersOf = (): Map<string, TrainableParameter> =>
  new Map(
    [5, 3].map((length, p) => [
      `p${p}`,
      {
        value: tensor(new Float32Array(length).fill(p + 1), [length]),
        grad: tensor(new Float32Array(length).fill(rank + 1), [length]),
      },
    ]),
  )

/** Steps with a gradient that is infinite on the last rank only. */
async function stepNotFinite(onNonFinite: NonNullable<AdamWOptions['onNonFinite']>): Promise<Stepped> {
  const parameters = parametersOf()
  const optimiser = new AdamW(parameters, { lr: 0.1, onNonFinite, distributed: mpi })
  const { data } = parameters.get('p1')!.grad as ReturnType<typeof tensor>
  if (rank === size - 1) data[1] = Infinity
  const refusals = [await refusalOf(() => optimiser.step())]
  const bytes = await bytesOfAll(parameters, ({ value }) => value)
  const { stepCount, skippedSteps } = optimiser
  return { refusals, bytes, stepCount, skippedSteps }
}

const kinds = new Map<Kind, Trained>()
for (const kind of KINDS) kinds.set(kind, await train(kind))
const sixteenBits = new Map<string, Trained>()
for (const dtype of ['bfloat16', 'float16'] as const) {
  for (const kind of ['sequence', 'lora'] as const) sixteenBits.set(`${kind}, ${dtype}`, await train(kind, dtype))
}
const notFinite = {
  error: await stepNotFinite('error'),
  skip: await stepNotFinite('skip'),
  ignore: await stepNotFinite('ignore'),
}
const parameters = parametersOf()
const optimiser = new AdamW(parameters, { lr: 0.1, distributed: mpi })
await optimiser.step({ weight: 'sum' })
const summed = await bytesOfAll(parameters, ({ grad }) => grad)
const pending = optimiser.step()
const twice = await refusalOf(() => optimiser.step())
await pending

const result: Answer = { kinds, sixteenBits, notFinite, summed, twice }
answer(rank, result)
await mpi.finalize()
