/** Trains, saves after a step, and continues from what was saved. */
import * as mpi from 'lily-kernels/mpi'
import { AdamW, LilyModel, readPretrainedState } from '../../../lib/index.js'
import { addGradients, createModel, SETTINGS, shareOf } from '../../support/mpi-training.js'
import { answer, bytesOfAll, input } from './rank.js'

export interface Input {
  readonly folder: string
  readonly steps: number
  /** The step after which rank 0 saves. */
  readonly saveAfter?: number
  /** The step in which the last rank kills itself. */
  readonly killIn?: number
  /** Who reads the folder: all ranks, or rank 0, which broadcasts the rest. */
  readonly resume?: 'all' | 'first'
}
export interface Answer {
  readonly bytes: Map<string, Uint8Array>
  readonly stepCount: number
}

const { folder, steps, saveAfter, killIn, resume } = input() as Input
const { rank, size } = await mpi.init()
const isRead = resume === 'all' || (resume === 'first' && rank === 0)
const model = isRead ? await LilyModel.fromPretrained(folder) : createModel('sequence')
const optimiser = new AdamW(model.parameters(), { ...SETTINGS, distributed: mpi })
if (isRead) optimiser.load(await readPretrainedState(folder, model))
if (resume === 'first') {
  await mpi.broadcast(model)
  await mpi.broadcast(optimiser)
}

for (let step = optimiser.stepCount; step < steps; step++) {
  const share = shareOf(step, rank, size)
  addGradients(model, 'sequence', share)
  const done = optimiser.step({ weight: share.keptTokens, lrScale: 1 - step / 10 })
  if (step === killIn && rank === size - 1) process.kill(process.pid, 'SIGKILL')
  await done
  optimiser.zeroGrad()
  if (step === saveAfter) {
    if (rank === 0) await model.savePretrained(folder, { optimiser })
    await mpi.barrier()
  }
}
const result: Answer = {
  bytes: await bytesOfAll(model.parameters(), ({ value }) => value),
  stepCount: optimiser.stepCount,
}
answer(rank, result)
await mpi.finalize()
