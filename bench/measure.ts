/** Timing of several things side by side. */
import { setImmediate } from 'node:timers/promises'
import { median, quantile } from 'd3-array'
import { type CudaDevice, Event } from '../lib/index.js'

/** Seconds of one call, over `calls` of them. */
export type Clock = (run: () => void, calls: number) => number | Promise<number>

/** A call is done when it returns. */
export const hostClock: Clock = (run, calls) => {
  const begin = process.hrtime.bigint()
  for (let call = 0; call < calls; call++) run()
  return Number(process.hrtime.bigint() - begin) / 1e9 / calls
}

/** Between two events of the device's own stream: what enqueuing costs counts only where the device waits for it. */
export function deviceClock(device: CudaDevice): Clock {
  const begin = Event.create(device)
  const end = Event.create(device)
  return async (run, calls) => {
    begin.record()
    for (let call = 0; call < calls; call++) run()
    end.record()
    await end.synchronize()
    return begin.elapsedTime(end) / 1e3 / calls
  }
}

export interface Limits {
  /** To measure for, though for `rounds` at least. */
  readonly seconds: number
  readonly rounds: number
  readonly signal: AbortSignal
}

/** As long as a sample must be for the clock not to matter. */
const SAMPLE_SECONDS = 0.0005

async function callsPerSample(run: () => void, clock: Clock): Promise<number> {
  run()
  let seconds = await clock(run, 1)
  if (seconds < 0.01) seconds = Math.min(await clock(run, 3), await clock(run, 3))
  return Math.max(1, Math.ceil(SAMPLE_SECONDS / seconds))
}

/**
 * Seconds of a call, by thing and round. In every round each is sampled once, in turn: a machine whose speed drifts, or
 * that others use too, is then as fast for the one as for the other, and the ratio of two stays true.
 *
 * @throws the signal's reason when it aborts
 */
export async function sampleInTurn(runs: readonly (() => void)[], clock: Clock, limits: Limits): Promise<number[][]> {
  const calls: number[] = []
  for (const run of runs) calls.push(await callsPerSample(run, clock))
  const samples = runs.map((): number[] => [])
  const end = performance.now() + limits.seconds * 1000
  for (let round = 0; round < limits.rounds || performance.now() < end; round++) {
    // A turn of the event loop, in which an interrupt is heard.
    await setImmediate()
    limits.signal.throwIfAborted()
    for (const [i, run] of runs.entries()) samples[i].push(await clock(run, calls[i]))
  }
  return samples
}

export interface Timing {
  /** Seconds of one call. */
  readonly median: number
  /** Half the distance between the quartiles, as a share of the median. */
  readonly spread: number
  readonly samples: number
}

export function timingOf(seconds: readonly number[]): Timing {
  const middle = median(seconds) ?? NaN
  const distance = (quantile(seconds, 0.75) ?? NaN) - (quantile(seconds, 0.25) ?? NaN)
  return { median: middle, spread: distance / 2 / middle, samples: seconds.length }
}

/** Median of the ratios of samples of the same round. */
export function ratioOf(seconds: readonly number[], others: readonly number[]): number {
  return median(seconds.map((time, round) => time / others[round])) ?? NaN
}
