/** A job whose MPI belongs to a worker, and ends that are neither an error nor a plain exit. */
import { isMainThread, Worker, workerData } from 'node:worker_threads'
import * as mpi from 'lily-kernels/mpi'
import { announcedRank, answer, input, mark, marked, sleep } from './rank.js'

export interface Input {
  /** `finalize`: a worker uses MPI, and ends well. Otherwise how rank 0 ends. */
  readonly end:
    | 'finalize'
    | 'terminate the worker'
    | 'exit while the worker runs'
    | 'exit in a listener'
    | 'exit after an error that was handled'
    | 'let rank 0 wait for all'
  /** Default: that of init(). */
  readonly timeout?: number
}
/** What a worker has gathered. */
export type Answer = readonly number[]

const { end, timeout } = (isMainThread ? input() : workerData) as Input

/** A rank, up to the fault. */
async function run(): Promise<void> {
  const { rank } = await mpi.init({ timeout })
  answer(rank, (await mpi.allGather(rank)) satisfies Answer)
  mark(`${rank}`)
  const comes = end === 'let rank 0 wait for all' ? rank === 0 : rank !== 0
  if (end !== 'finalize') await (comes ? mpi.barrier() : new Promise(() => setInterval(() => undefined, 1000)))
  await mpi.finalize()
}

if (!isMainThread || end === 'let rank 0 wait for all') {
  await run()
} else if (end === 'exit in a listener') {
  // No listener runs after one that calls exit().
  process.once('exit', () => process.exit(3))
  const running = run()
  if (announcedRank === 0) {
    await marked('0')
    process.exit(3)
  }
  await running
} else if (end === 'exit after an error that was handled') {
  const handled = new Promise((resolve) => process.once('uncaughtException', resolve))
  const running = run()
  if (announcedRank === 0) {
    await marked('0')
    setImmediate(() => {
      throw new Error('handled')
    })
    await handled
    await sleep(1)
    process.exit(3)
  }
  await running
} else {
  const worker = new Worker(new URL(import.meta.url), { workerData: { end } satisfies Input })
  const ended = new Promise((resolve) => worker.on('exit', resolve))
  if (end !== 'finalize' && announcedRank === 0) {
    await marked('0')
    if (end === 'exit while the worker runs') process.exit(0)
    await worker.terminate()
  }
  await ended
}
