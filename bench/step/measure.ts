/** Measures the contenders on one problem, all in turn. */
import { setTimeout } from 'node:timers/promises'
import { medianRatio, type Timing, timingOf } from '../harness/sampling.js'
import type { PeerProcess } from '../peers/peer-process.js'
import type { Missing } from '../peers/protocol.js'
import type { AdapterName, EncoderName, Problem } from './problem.js'
import type { Part, Reply, Request } from './protocol.js'

export interface Contender {
  readonly name: string
  readonly peer: Pick<PeerProcess<Request, Reply>, 'request'>
}

export interface StepResult extends Timing {
  readonly contender: string
  /** Median of the ratios of the contender's time to this package's, in samples of one round. */
  readonly ratioToOurs: number
  /** Seconds per step of each part, in steps of their own, which measuring the parts makes slower. */
  readonly parts: Readonly<Partial<Record<Part, number>>>
}

/** One encoder with one adapter. */
export interface StepRow {
  readonly encoder: EncoderName
  readonly adapter: AdapterName
  /** Losses of this package in the first steps. */
  readonly losses: readonly number[]
  /** The largest relative difference between two contenders' losses of one step. */
  readonly lossDifference: number
  /** The first one is this package. */
  readonly results: readonly StepResult[]
}

export interface StepLimits {
  /** Time budget of one problem; at least `rounds` rounds always run. */
  readonly seconds: number
  readonly rounds: number
  /** Steps whose losses are compared. */
  readonly losses: number
  readonly signal: AbortSignal
}

type Rounds = Pick<Extract<Request, { request: 'sample' }>, 'warmup' | 'rounds'>

/**
 * Largest relative difference of the losses of a step that rounding explains. They differ by some 10^-6, and more from step to
 * step: AdamW divides by the size of a gradient, so that the smallest ones count as much as others.
 */
const ROUNDING = 1e-4

/** A sample takes this long, or one round of steps. */
const SAMPLE_SECONDS = 1

/** A round that takes longer needs no warm-up: the caches and the processors are its own after a small part of it. */
const LONG_SECONDS = 1

/** The pause before a sample, in milliseconds, in which the threads of the contender before stop spinning. */
const PAUSE = 25

/**
 * Measures one problem. A contender whose losses differ from the first one's is not measured, and neither is one that
 * fails; they are added to `missing`.
 *
 * @param contenders this package first
 * @throws what the first one throws; the reason of the signal
 */
export async function measureStep(
  contenders: readonly Contender[],
  problem: Problem,
  limits: StepLimits,
  missing: Missing[],
): Promise<StepRow> {
  const begin = performance.now()
  const { signal } = limits
  const losses: (readonly number[])[] = []
  const opened: { contender: Contender; rounds: Rounds; samples: number[]; parts: StepResult['parts'] }[] = []
  /** Runs work for a contender; one that fails is left out. */
  const attempt = async (contender: Contender, work: () => Promise<void>): Promise<boolean> => {
    try {
      await setTimeout(PAUSE)
      signal.throwIfAborted()
      await work()
      return true
    } catch (error) {
      // An interrupt in a terminal also reaches the contenders, and they end.
      signal.throwIfAborted()
      if (contender === contenders[0]) throw error
      const name = `${contender.name}, ${problem.encoder}, ${problem.adapter}`
      missing.push({ name, reason: (error as Error).message, install: '' })
      return false
    }
  }

  for (const contender of contenders) {
    await attempt(contender, async () => {
      const { peer } = contender
      await peer.request({ request: 'open', problem })
      const start = performance.now()
      const found = (await peer.request({ request: 'losses', steps: limits.losses })).losses ?? []
      const seconds = ((performance.now() - start) / 1000 / limits.losses) * problem.batches.length
      const difference = lossDifference([...losses.slice(0, 1), found])
      if (!(difference <= ROUNDING)) {
        throw new Error(`its losses differ by ${difference.toPrecision(2)} (relative; at most ${ROUNDING} is rounding)`)
      }
      losses.push(found)
      const rounds = { warmup: seconds > LONG_SECONDS ? 0 : 1, rounds: Math.ceil(SAMPLE_SECONDS / seconds) }
      opened.push({ contender, rounds, samples: [], parts: {} })
    })
  }
  const end = begin + limits.seconds * 1000
  for (let round = 0; round < limits.rounds || performance.now() < end; round++) {
    for (const each of [...opened]) {
      const isMeasured = await attempt(each.contender, async () => {
        const { seconds = 0 } = await each.contender.peer.request({ request: 'sample', ...each.rounds })
        if (!(seconds > 0)) throw new Error(`it returned ${seconds} seconds`)
        each.samples.push(seconds)
      })
      if (!isMeasured) opened.splice(opened.indexOf(each), 1)
    }
  }
  // After the samples, in the same warm state.
  for (const each of opened) {
    await attempt(each.contender, async () => {
      const { parts } = await each.contender.peer.request({ request: 'parts', ...each.rounds })
      each.parts = parts ?? {}
    })
  }
  return {
    encoder: problem.encoder,
    adapter: problem.adapter,
    losses: losses[0],
    lossDifference: lossDifference(losses),
    results: opened.map(({ contender, samples, parts }) => ({
      contender: contender.name,
      ...timingOf(samples),
      ratioToOurs: medianRatio(samples, opened[0].samples),
      parts,
    })),
  }
}

/** The largest difference of a step, relative to the loss of the first contender; Infinity if a loss is missing. */
function lossDifference([first, ...others]: readonly (readonly number[])[]): number {
  const differences = others.flatMap((losses) =>
    first.map((loss, step) => Math.abs((losses[step] ?? Infinity) - loss) / Math.abs(loss)),
  )
  return Math.max(0, ...differences)
}
