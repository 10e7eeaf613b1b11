/**
 * How much of a suite runs. The gate runs a fixed part of what repeats: random problems, types, instruction sets, numbers of
 * threads. The environment variables that change it:
 *
 *     LILY_TEST_LONG=1    all of it, and more random problems; `.ci/run --long` sets it
 *     FAST_CHECK_RUNS     the number of random problems in every suite
 *     FAST_CHECK_SEED     the seed that fast-check printed, to repeat a failure
 */

/** A scheduled run, which also runs what the gate leaves out because it takes long. */
export const isLong = process.env.LILY_TEST_LONG === '1'

/** The number of random problems: in the gate, and in a long run. */
export const runs = (gate: number, long: number) => Number(process.env.FAST_CHECK_RUNS ?? (isLong ? long : gate))

/** Parameters of fast-check for that many random problems. */
export function problems(gate: number, long: number): { numRuns: number; seed?: number } {
  const seed = process.env.FAST_CHECK_SEED
  return { numRuns: runs(gate, long), ...(seed !== undefined && { seed: Number(seed) }) }
}

/** Of a list, every `n`th from `first` on; in a long run, all. */
export const everyNth = <T>(n: number, list: readonly T[], first = 0): T[] =>
  list.filter((_, i) => isLong || i % n === first % n)
