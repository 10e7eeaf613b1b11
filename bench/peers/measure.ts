/** Measures this package and its peers case by case, all in turn. */
import {
  type Limits,
  medianRatio,
  sampleInterleaved,
  type Sampler,
  type Timing,
  timingOf,
} from '../harness/sampling.js'
import { type Pass, passes } from '../methods/methods.js'
import type { Case } from '../workload/cases.js'
import { shapeText } from '../workload/shapes.js'
import { disagreement } from './agreement.js'
import { type Contender, OURS } from './contender.js'
import type { Adapter, Missing, Outputs } from './protocol.js'

export interface PeerResult extends Timing {
  readonly contender: string
  /** Median of the ratios of the contender's time to this package's, in samples of one round. */
  readonly ratioToOurs: number
  /** For a frozen layer with an adapter: median of the ratios to the same contender's frozen layer alone; otherwise null. */
  readonly ratioToLayer: number | null
}

/** One line of a table. */
export interface PeerRow extends Case {
  readonly adapter: Adapter
  readonly pass: Pass
  readonly results: readonly PeerResult[]
}

/**
 * Measures one case. A contender whose outputs differ from this package's is not measured, and neither is one that
 * fails, nor a pass during which a peer ends; they are added to `missing`.
 */
export async function measureCase(
  contenders: readonly Contender[],
  benchCase: Case,
  limits: Limits,
  missing: Missing[],
): Promise<PeerRow[]> {
  const where = `${shapeText(benchCase.shape)}, ${benchCase.dtype}`
  const opened: Contender[] = []
  const ours = new Map<Adapter, Outputs>()
  try {
    for (const contender of contenders) {
      if (!passes.some((pass) => contender.measures(benchCase, pass))) continue
      limits.signal.throwIfAborted()
      try {
        await contender.open(benchCase)
        const outputs = await contender.outputs()
        const expected = ours.get(contender.adapter)
        const wrong = expected === undefined ? null : disagreement(outputs, expected, benchCase.dtype)
        if (contender.name === OURS) ours.set(contender.adapter, outputs)
        if (wrong !== null) throw new Error(wrong)
        opened.push(contender)
      } catch (error) {
        // An interrupt in a terminal also reaches the peers, and they end.
        limits.signal.throwIfAborted()
        if (contender.name === OURS) throw error
        const reason = (error as Error).message
        missing.push({ name: `${contender.name}, ${contender.adapter}, ${where}`, reason, install: '' })
      }
    }
    const rows: PeerRow[] = []
    for (const pass of passes) {
      const measured = opened.filter((contender) => contender.measures(benchCase, pass))
      try {
        const samples = await sampleInterleaved(measured.map(named(pass)), limits)
        rows.push(...rowsOf(benchCase, pass, measured, samples))
      } catch (error) {
        limits.signal.throwIfAborted()
        missing.push({ name: `${where}, ${pass}`, reason: (error as Error).message, install: '' })
      }
    }
    return rows
  } finally {
    for (const contender of opened) await contender.close().catch(() => undefined)
  }
}

/** The sampler of a contender, whose errors say which contender it is. */
const named =
  (pass: Pass) =>
  (contender: Contender): Sampler => {
    const sampler = contender.sampler(pass)
    return async (calls) => {
      try {
        return await sampler(calls)
      } catch (error) {
        throw new Error(`${contender.name}, ${contender.adapter}: ${(error as Error).message}`, { cause: error })
      }
    }
  }

/** One row per adapter; ours is the first of its contenders. */
function rowsOf(benchCase: Case, pass: Pass, measured: readonly Contender[], samples: number[][]): PeerRow[] {
  return [...new Set(measured.map(({ adapter }) => adapter))].map((adapter): PeerRow => {
    const group = measured.flatMap((contender, i) => (contender.adapter === adapter ? [{ contender, i }] : []))
    const reference = samples[group[0].i]
    const layerOf = ({ name }: Contender) => {
      const layer = measured.findIndex((each) => each.name === name && each.adapter === 'layer')
      return adapter === 'layer' || layer < 0 ? null : samples[layer]
    }
    return {
      ...benchCase,
      adapter,
      pass,
      results: group.map(({ contender, i }) => ({
        contender: contender.name,
        ...timingOf(samples[i]),
        ratioToOurs: medianRatio(samples[i], reference),
        ratioToLayer: ratioTo(layerOf(contender), samples[i]),
      })),
    }
  })
}

const ratioTo = (reference: number[] | null, seconds: number[]): number | null =>
  reference === null ? null : medianRatio(seconds, reference)
