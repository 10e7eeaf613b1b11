/** One run of the microbenchmark: the roofs, then case by case. */
import type { BackendName, CudaDevice, DeviceInfo, Graph, Tensor } from '../lib/index.js'
import { coldSets } from './caches.js'
import type { Case } from './cases.js'
import { makeContenders, methodsOf } from './contenders.js'
import { dtypes } from './dtypes.js'
import { floorOf, phasesOf, workingSet, workOf } from './floor.js'
import { type Clock, deviceClock, hostClock, type Limits, ratioOf, sampleInTurn, timingOf } from './measure.js'
import { measureOverhead, type Overhead } from './overhead.js'
import { equalParametersRank, type Model } from './parameters.js'
import { type Caches, type Method, methods, type Pass, passes, type Result } from './report.js'
import { measureRoofs, type Roofs } from './roofs.js'
import { shapeText } from './shapes.js'

export interface Plan {
  readonly backend: BackendName
  readonly device: DeviceInfo
  readonly cases: readonly Case[]
  readonly caches: Caches
  readonly model: Model
  /** For the whole run; it takes longer where the rounds of its cases do. */
  readonly seconds: number
  readonly rounds: number
}

/** What there is so far. */
export interface Findings {
  roofs: Roofs | null
  overhead: Overhead | null
  readonly results: Result[]
  readonly notes: string[]
}

/** Told what is measured next, and which share of the run is then done. */
export type OnProgress = (what: string, share: number) => void

/** Of tiny operands more would take longer to make than to measure. */
const MOST_SETS = 512

const DEVICE: CudaDevice = { type: 'cuda', id: 0 }

/** Adds to `findings` until all is measured, or the signal aborts: a case is there as a whole or not at all. */
export async function measure(
  plan: Plan,
  findings: Findings,
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<void> {
  const begin = performance.now()
  try {
    onProgress('roofs', 0)
    findings.roofs = await measureRoofs(plan.backend, plan.device, signal)
    if (plan.backend === 'cpu') {
      onProgress('overhead of a call', 0.02)
      findings.overhead = await measureOverhead({ seconds: Math.min(1, plan.seconds / 10), rounds: 5, signal })
    } else {
      findings.notes.push('the roof of 16-bit products is that of mma.sync from registers')
      findings.notes.push('the composed steps work in host memory and are measured on the cpu alone')
    }
    const clock = plan.backend === 'cuda' ? deviceClock(DEVICE) : hostClock
    for (const [i, each] of plan.cases.entries()) {
      const { shape, dtype, routing } = each
      onProgress(`${shapeText(shape)} ${dtype} ${routing}`, 0.03 + (0.97 * i) / plan.cases.length)
      // What earlier cases took beyond their share is missing to later ones, not added to the run.
      const left = Math.max(0, plan.seconds - (performance.now() - begin) / 1000)
      const seconds = left / (plan.cases.length - i) / passes.length
      const limits: Limits = { seconds, rounds: plan.rounds, signal }
      findings.results.push(...(await measureCase(each, plan, clock, limits, findings)))
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

async function measureCase(
  each: Case,
  plan: Plan,
  clock: Clock,
  limits: Limits,
  { roofs, notes }: Findings,
): Promise<Result[]> {
  const { shape, dtype, routing } = each
  const types = dtypes[dtype]
  const equalRank = equalParametersRank(plan.model, shape)
  const own = (method: Method) =>
    ({
      shape: method === 'lora-equal-parameters' ? { ...shape, rank: equalRank } : shape,
      routing: method.startsWith('lora') ? ('none' as const) : routing,
    }) as const
  const setsOf = (method: Method): number => {
    if (plan.caches === 'warm') return 1
    const sets = coldSets(workingSet(own(method).shape, own(method).routing, types, false), plan.device)
    if (sets <= MOST_SETS) return sets
    const note = `${shapeText(shape)}: so small that ${MOST_SETS} sets of operands, of which calls take turns, may stay in the cache`
    if (!notes.includes(note)) notes.push(note)
    return MOST_SETS
  }
  const kept: { dispose: () => void }[] = []
  const keep = <T extends Tensor | Graph>(made: T): T => {
    kept.push(made)
    return made
  }
  const place = (tensor: Tensor): Tensor => (plan.backend === 'cpu' ? tensor : keep(tensor.to(DEVICE)))

  const contending = methodsOf(methods, each, plan.backend)
  if (plan.backend === 'cpu' && !contending.includes('lily-composed')) {
    notes.push(
      `${shapeText(shape)}, token routing: no unfused Lily, whose product with E r rows would be wider than 4096`,
    )
  }
  const contenders = makeContenders(contending, each, equalRank, setsOf, { place, keep })
  const results: Result[] = []
  for (const pass of passes) {
    const samples = await sampleInTurn(
      contenders.map((calls) => calls[pass]),
      clock,
      limits,
    )
    const samplesOf = (method: Method): number[] | undefined => samples[contending.indexOf(method)]
    for (const [i, method] of contending.entries()) {
      const fused = samplesOf(method.replace(/-(composed|graph)$/, '') as Method)
      results.push({
        ...each,
        pass,
        method,
        rank: own(method).shape.rank,
        ...timingOf(samples[i]),
        ...leastOf(own(method), each, pass, plan, roofs),
        ratioToLora: ratioOf(samples[i], samplesOf('lora')!),
        ratioToFused: fused === undefined || fused === samples[i] ? null : ratioOf(samples[i], fused),
      })
    }
  }
  for (const made of kept) made.dispose()
  return results
}

function leastOf(
  own: { readonly shape: Case['shape']; readonly routing: Case['routing'] | 'none' },
  { dtype }: Case,
  pass: Pass,
  { caches }: Plan,
  roofs: Roofs | null,
): Pick<Result, 'flops' | 'bytes' | 'floor'> {
  const types = dtypes[dtype]
  const withBackward = pass !== 'forward'
  const phases = phasesOf(own.shape, own.routing, types, withBackward)
  const bytes = caches === 'cold' ? Infinity : workingSet(own.shape, own.routing, types, withBackward)
  return { ...workOf(phases), floor: roofs === null ? null : floorOf(phases, bytes, types, roofs) }
}
