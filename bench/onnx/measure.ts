/** Tokens per second of all ways to run an adapter. */
import { setTimeout } from 'node:timers/promises'
import { type Limits, medianRatio, sampleInterleaved, type Sampler, timingOf } from '../harness/sampling.js'
import { PAUSE, WARMUP } from '../peers/contender.js'
import type { Ort } from '../peers/ort.js'
import { filled } from '../workload/operands.js'
import type { AdapterName, Sizes } from './block.js'
import type { OnnxRow } from './report.js'
import { type Bound, checkAgreement, openWays } from './ways.js'

/** With the pause and the untimed calls of a contender of `bench:peers`. */
const samplerOf =
  ({ run }: Bound): Sampler =>
  async (calls) => {
    await setTimeout(PAUSE)
    const end = performance.now() + WARMUP * 1000
    do await run()
    while (performance.now() < end)
    const begin = process.hrtime.bigint()
    for (let call = 0; call < calls; call++) await run()
    return Number(process.hrtime.bigint() - begin) / 1e9 / calls
  }

/** @param limits of each number of tokens */
export async function* measureAdapter(
  ort: Ort,
  adapter: AdapterName,
  sizes: Sizes,
  counts: readonly number[],
  threads: number,
  limits: Limits,
): AsyncGenerator<OnnxRow> {
  const opened = await openWays(ort, adapter, sizes, threads)
  try {
    for (const tokens of counts) {
      const x = filled([1, tokens, sizes.d], 1)
      const bound = new Map(opened.map((each) => [each.way, each.bind(x)]))
      const difference = await checkAgreement(bound)
      const samples = await sampleInterleaved([...bound.values()].map(samplerOf), limits)
      const [base] = samples
      const results = [...bound.keys()].map((way, i) => ({
        way,
        ...timingOf(samples[i]),
        ratioToBase: medianRatio(samples[i], base),
      }))
      yield { adapter, tokens, difference, results }
    }
  } finally {
    for (const each of opened) await each.close()
  }
}
