/** Timing of two things side by side. */

export interface Timing {
  /** Seconds of one call. */
  readonly median: number
  /** Half the distance between the quartiles, as a share of the median. */
  readonly spread: number
}

export interface Comparison {
  readonly a: Timing
  readonly b: Timing
  /** Median of the ratios a / b of neighbouring samples: it holds when the machine's speed drifts. */
  readonly ratio: number
  readonly samples: number
}

function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

const ascending = (values: readonly number[]): number[] => [...values].sort((x, y) => x - y)

function timing(seconds: readonly number[]): Timing {
  const sorted = ascending(seconds)
  const median = quantile(sorted, 0.5)
  return { median, spread: (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 2 / median }
}

/** Seconds of one call, over as many calls as make a sample of at least half a millisecond. */
function sample(run: () => void, calls: number): number {
  const begin = process.hrtime.bigint()
  for (let call = 0; call < calls; call++) run()
  return Number(process.hrtime.bigint() - begin) / 1e9 / calls
}

function callsPerSample(run: () => void): number {
  for (let warm = 0; warm < 3; warm++) run()
  return Math.max(1, Math.ceil(0.0005 / sample(run, 3)))
}

/** Samples of a and b in turn for `seconds`, five pairs at least. */
export function compare(a: () => void, b: () => void, seconds: number): Comparison {
  const callsOfA = callsPerSample(a)
  const callsOfB = callsPerSample(b)
  const timesOfA: number[] = []
  const timesOfB: number[] = []
  const end = performance.now() + seconds * 1000
  while (timesOfA.length < 5 || performance.now() < end) {
    timesOfA.push(sample(a, callsOfA))
    timesOfB.push(sample(b, callsOfB))
  }
  const ratios = ascending(timesOfA.map((time, i) => time / (timesOfB[i] ?? Number.NaN)))
  return { a: timing(timesOfA), b: timing(timesOfB), ratio: quantile(ratios, 0.5), samples: ratios.length }
}
