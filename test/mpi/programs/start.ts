/** Says what init() gives, or refuses. */
import * as mpi from 'lily-kernels/mpi'
import { announcedRank, answer, refusalOf, type Refusal } from './rank.js'

export interface Answer {
  readonly refusal: Refusal | null
  readonly library: string | null
  /** What was gathered of all ranks: their ranks. */
  readonly gathered: readonly number[]
}

let [library, gathered]: [string | null, number[]] = [null, []]
const refusal = await refusalOf(async () => {
  const world = await mpi.init()
  library = world.library
  gathered = await mpi.allGather(world.rank)
  await mpi.finalize()
})
const result: Answer = { refusal, library, gathered }
answer(announcedRank, result)
// A library whose init() was refused may have been initialised.
process.exit(refusal === null ? 0 : 7)
