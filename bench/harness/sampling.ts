/** Interleaved timing of several functions, and statistics of the samples. */
import { setImmediate } from 'node:timers/promises'
import { median, quantile } from 'd3-array'
import { type CudaDevice, Event } from '../../lib/index.js'

/** Runs a function `calls` times and returns the seconds per call. */
export type Clock = (run: () => void, calls: number) => number | Promise<number>

/** For calls that are complete when they return. */
export const hostClock: Clock = (run, calls) => {
  const begin = process.hrtime.bigint()
  for (let call = 0; call < calls; call++) run()
  return Number(process.hrtime.bigint() - begin) / 1e9 / calls
}

/** Measures between two events on the default stream: enqueuing counts only while the device waits for it. */
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

/** Takes one sample: makes `calls` calls and returns the seconds per call. */
export type Sampler = (calls: number) => number | Promise<number>

export interface Limits {
  /** Time budget; at least `rounds` rounds always run. */
  readonly seconds: number
  readonly rounds: number
  readonly signal: AbortSignal
  /** Minimum duration of a sample; by default SAMPLE_SECONDS. */
  readonly sampleSeconds?: number
}

/** Minimum duration of a sample, at which the resolution of the clock of the host is negligible. */
export const SAMPLE_SECONDS = 0.0005

async function callsPerSample(sampler: Sampler, { sampleSeconds = SAMPLE_SECONDS }: Limits): Promise<number> {
  await sampler(1)
  let seconds = await sampler(1)
  if (seconds < Math.max(0.01, sampleSeconds)) seconds = Math.min(await sampler(3), await sampler(3))
  return Math.max(1, Math.ceil(sampleSeconds / seconds))
}

/**
 * Samples every contender once per round, one after the other. If the speed of the machine drifts, or other processes use
 * it, all contenders are affected alike and the ratio of two of them stays valid.
 *
 * @returns seconds per call, by contender and round
 * @throws the reason of the signal when it aborts
 */
export async function sampleInterleaved(samplers: readonly Sampler[], limits: Limits): Promise<number[][]> {
  const calls: number[] = []
  for (const sampler of samplers) {
    await yieldTo(limits.signal)
    calls.push(await callsPerSample(sampler, limits))
  }
  const samples = samplers.map((): number[] => [])
  const end = performance.now() + limits.seconds * 1000
  for (let round = 0; round < limits.rounds || performance.now() < end; round++) {
    await yieldTo(limits.signal)
    for (const [i, sampler] of samplers.entries()) samples[i].push(await sampler(calls[i]))
  }
  return samples
}

/** Yields to the event loop, so that signal handlers can run. */
async function yieldTo(signal: AbortSignal): Promise<void> {
  await setImmediate()
  signal.throwIfAborted()
}

export interface Timing {
  /** Seconds per call. */
  readonly median: number
  /** Half the interquartile range, relative to the median. */
  readonly spread: number
  readonly samples: number
}

export function timingOf(seconds: readonly number[]): Timing {
  const middle = median(seconds) ?? NaN
  const distance = (quantile(seconds, 0.75) ?? NaN) - (quantile(seconds, 0.25) ?? NaN)
  return { median: middle, spread: distance / 2 / middle, samples: seconds.length }
}

/** The ratio of two times, from the two samples of each round. */
export type Ratio = Pick<Timing, 'median' | 'spread'>

export function ratioOf(seconds: readonly number[], reference: readonly number[]): Ratio {
  const { median, spread } = timingOf(seconds.map((time, round) => time / reference[round]))
  return { median, spread }
}

export const medianRatio = (seconds: readonly number[], reference: readonly number[]): number =>
  ratioOf(seconds, reference).median
