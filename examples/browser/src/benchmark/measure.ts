/** Interleaved timing of the contenders of one shape. */
import type { Backend } from '../backend.js'
import { pause } from '../dom.js'
import type { Case } from './cases.js'
import { type Clock, openClock, SAMPLE_SECONDS } from './clocks.js'
import { Contenders, equalParametersRank, methods, type Pass, passes } from './contenders.js'
import { type Quartiles, quartilesOf, ratiosOf } from './statistics.js'

/** One shape and one pass. */
export interface Row {
  readonly shape: Case
  readonly pass: Pass
  /** Rank of the LoRA that has as many parameters. */
  readonly equalRank: number
  /** Seconds per call. */
  readonly lily: Quartiles
  readonly lora: Quartiles
  readonly loraEqual: Quartiles
  /** Time of Lily relative to that of LoRA. */
  readonly toLora: Quartiles
  readonly toLoraEqual: Quartiles
}

/** Calls of one sample, at most. */
const MAX_CALLS = 4096

export interface MeasureOptions {
  readonly rounds: number
  readonly signal: AbortSignal
  readonly onProgress: (step: string, share: number) => void
}

/**
 * Samples every contender once per round, one after the other.
 *
 * @throws LilyError; the reason of the signal when it aborts
 */
export async function measureCase(backend: Backend, shape: Case, options: MeasureOptions): Promise<Row[]> {
  const { rounds, signal, onProgress } = options
  onProgress('preparing the operands and the kernels', 0)
  await pause()
  const contenders = new Contenders(backend, shape)
  const { clock, close } = openClock(backend)
  try {
    const rows: Row[] = []
    for (const method of methods) await contenders.byMethod[method].warmUp()
    for (const [p, pass] of passes.entries()) {
      const runs = methods.map((method) => contenders.byMethod[method].calls[pass])
      const samples = await sampleInterleaved(clock, runs, rounds, signal, (share) => {
        onProgress(pass, (p + share) / passes.length)
      })
      const [lily, lora, loraEqual] = samples
      rows.push({
        shape,
        pass,
        equalRank: equalParametersRank(shape),
        lily: quartilesOf(lily),
        lora: quartilesOf(lora),
        loraEqual: quartilesOf(loraEqual),
        toLora: ratiosOf(lily, lora),
        toLoraEqual: ratiosOf(lily, loraEqual),
      })
    }
    return rows
  } finally {
    contenders.dispose()
    close()
  }
}

/** A short sample may take no time by the clock, so the number of calls grows in steps. */
async function callsPerSample(clock: Clock, run: () => void): Promise<number> {
  await clock(run, 1)
  let calls = 1
  while (calls < MAX_CALLS) {
    const seconds = (await clock(run, calls)) * calls
    if (seconds >= 0.8 * SAMPLE_SECONDS) break
    const needed = Math.ceil((calls * SAMPLE_SECONDS) / Math.max(seconds, 1e-9))
    calls = Math.min(needed, 8 * calls, MAX_CALLS)
  }
  return calls
}

async function sampleInterleaved(
  clock: Clock,
  runs: readonly (() => void)[],
  rounds: number,
  signal: AbortSignal,
  onShare: (share: number) => void,
): Promise<number[][]> {
  const calls: number[] = []
  for (const run of runs) {
    signal.throwIfAborted()
    calls.push(await callsPerSample(clock, run))
  }
  const samples = runs.map((): number[] => [])
  for (let round = 0; round < rounds; round++) {
    onShare(round / rounds)
    await pause()
    signal.throwIfAborted()
    for (const [i, run] of runs.entries()) samples[i].push(await clock(run, calls[i]))
  }
  return samples
}
