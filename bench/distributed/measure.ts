/** Times of all ways to average gradients, in two jobs that take turns. */
import { setTimeout } from 'node:timers/promises'
import { type Limits, medianRatio, sampleInterleaved, type Sampler, timingOf } from '../harness/sampling.js'
import { PAUSE } from '../peers/contender.js'
import type { PeerProcess } from '../peers/peer-process.js'
import { type Reply, type Request, type Way, ways } from './protocol.js'
import type { DistributedRow } from './report.js'

export interface Jobs {
  readonly c: Pick<PeerProcess<Request, Reply>, 'request'>
  readonly ours: Pick<PeerProcess<Request, Reply>, 'request'>
}

/** A quarter more calls than are timed, at least two: the contenders before it have replaced the contents of the caches. */
const warmupOf = (calls: number): number => Math.max(2, Math.ceil(calls / 4))

/**
 * Measures one number of bytes.
 *
 * @throws if the averages have not the same bits: a time says little about wrong results
 */
export async function measureBytes(
  jobs: Jobs,
  library: string,
  bytes: number,
  limits: Limits,
): Promise<DistributedRow> {
  const found = new Map<string, number>()
  for (const job of [jobs.c, jobs.ours]) {
    const { hashes = {} } = await job.request({ request: 'open', bytes })
    for (const [way, hash] of Object.entries(hashes)) found.set(way, hash)
  }
  const different = ways.find((way) => found.get(way) !== found.get(ways[0]))
  if (different !== undefined) throw new Error(`wrong results: the averages of ${different} and ${ways[0]} differ`)

  const samplers = ways.map((way): Sampler => async (calls) => {
    await setTimeout(PAUSE)
    const job = way === 'MPI_Allreduce' ? jobs.c : jobs.ours
    const { seconds = 0 } = await job.request({ request: 'sample', way, warmup: warmupOf(calls), calls })
    if (!(seconds > 0)) throw new Error(`${way} took ${seconds} seconds`)
    return seconds
  })
  const samples = await sampleInterleaved(samplers, limits)
  const results = ways.map((way: Way, i) => ({
    way,
    ...timingOf(samples[i]),
    ratioToC: medianRatio(samples[i], samples[0]),
  }))
  return { library, bytes, results }
}
