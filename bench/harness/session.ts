/** One run of the benchmark on one backend: the roofs, the overhead of a call, then case by case. */
import { totalmem } from 'node:os'
import type { BackendName, CudaDevice, DeviceInfo, Graph, Tensor } from '../../lib/index.js'
import type { ComposedAdapter, TensorFlow } from '../methods/composed/tensorflow.js'
import { makeContenders, methodsOf } from '../methods/contenders.js'
import { hasLayer, type Method, methods, type Pass, passes } from '../methods/methods.js'
import { floorOf } from '../roofs/floor.js'
import { fasterRoofs, measureRoofs, type Roofs } from '../roofs/roofs.js'
import { layerBytes, layerPhasesOf, type Phase, phasesOf, workingSet, workOf, type WorkRouting } from '../roofs/work.js'
import type { BenchBackend, Case } from '../workload/cases.js'
import { type DTypes, dtypes } from '../workload/dtypes.js'
import { type Shape, shapeText } from '../workload/shapes.js'
import { equalParametersRank, type Model } from '../workload/trainable-parameters.js'
import { type Caches, coldSetCount } from './cold-caches.js'
import { doubtsOf, notesOfDoubts } from './doubts.js'
import { measureOverhead, type Overhead } from './overhead.js'
import { type Gpu, GPU_SAMPLE_SECONDS, gpuClock, withErrors } from './gpu.js'
import { compareOutputs } from './outputs.js'
import type { Failure, Result } from './report.js'
import {
  deviceClock,
  hostClock,
  type Limits,
  medianRatio,
  ratioOf,
  SAMPLE_SECONDS,
  sampleInterleaved,
  timingOf,
} from './sampling.js'

export interface Plan {
  readonly backend: BenchBackend
  readonly device: DeviceInfo
  /** The open device of WebGPU; null on the other backends. */
  readonly gpu: Gpu | null
  readonly cases: readonly Case[]
  readonly caches: Caches
  readonly model: Model
  /** Also measure the frozen layer, alone and with each adapter. */
  readonly withLayer: boolean
  /** Time budget of the whole run. The run exceeds it if the minimum number of rounds takes longer. */
  readonly seconds: number
  /** From one buffer of the memory roofs to the next. */
  readonly roofOctaves: number
  /** The size of the largest buffer of the memory roofs on a CPU; Infinity: several times the caches. */
  readonly roofBytes: number
  /** Minimum number of rounds per case and pass. */
  readonly rounds: number
}

/** The results so far. */
export interface Findings {
  roofs: Roofs | null
  overhead: Overhead | null
  readonly results: Result[]
  readonly failures: Failure[]
  readonly notes: string[]
}

/** Describes an error in one line, which the reports show. */
export type ReasonOf = (error: unknown) => string

/** Called before each step with the name of the step and the estimated seconds that the run still takes. */
export type OnProgress = (step: string, secondsLeft: number) => void

/** The share of the time budget that is kept for cases whose results are in doubt. */
const SHARE_TO_REPEAT = 1 / 6

/** Calls of a method before its first round: `sampleInterleaved` makes 2 or 8. */
const CALLS_BEFORE_ROUNDS = 5

/** Share of the floor that the methods reach on average; the composed ones, which take longest, count most. */
const TYPICAL_SHARE_OF_FLOOR = 0.25

/** Limit of operand sets per method: for tiny operands, creating more takes longer than measuring. */
const MAX_SETS = 512

const DEVICE: CudaDevice = { type: 'cuda', id: 0 }

/**
 * Adds to `findings` until the plan is complete or the signal aborts. Cases are added as a whole or not at all. A step that
 * fails is recorded, and the next one runs.
 */
export async function measure(
  plan: Plan,
  findings: Findings,
  signal: AbortSignal,
  onProgress: OnProgress,
  reasonOf: ReasonOf,
): Promise<void> {
  const begin = performance.now()
  const budgetLeft = (share: number): number => share * plan.seconds - (performance.now() - begin) / 1000
  /** What the cases have taken so far, and what was estimated of them. */
  const sums = { taken: 0, estimated: 0 }
  const minimumOfCase = (each: Case): number => minimumSeconds(each, plan, findings.roofs)
  /** The share of each case in the budget: one that exceeds it shortens the later cases and does not extend the run. */
  const secondsLeft = (from: number): number => {
    const slowness = sums.estimated > 0 ? Math.max(1, sums.taken / sums.estimated) : 1
    let [sum, budget] = [0, Math.max(0, budgetLeft(1 - SHARE_TO_REPEAT))]
    for (const [i, benchCase] of plan.cases.entries()) {
      if (i < from) continue
      const seconds = Math.max(budget / (plan.cases.length - i), slowness * minimumOfCase(benchCase))
      budget = Math.max(0, budget - seconds)
      sum += seconds
    }
    return sum
  }
  /** What each case has taken beyond the time that it was given. */
  const excess = new Map<Case, number>()
  const timed = async (benchCase: Case, seconds: number): Promise<Result[]> => {
    const start = performance.now()
    const results = await measureCase(benchCase, plan, { seconds, rounds: plan.rounds, signal }, findings)
    const taken = (performance.now() - start) / 1000
    excess.set(benchCase, taken - passes.length * seconds)
    sums.taken += taken
    sums.estimated += Math.max(passes.length * seconds, minimumOfCase(benchCase))
    return results
  }
  /** Runs a step; an error other than the signal's goes to `onError`. */
  const attempt = async (step: () => Promise<void>, onError: (reason: string) => void): Promise<void> => {
    try {
      await step()
    } catch (error) {
      if (signal.aborted) throw error
      onError(reasonOf(error))
    }
  }
  try {
    const { backend, gpu } = plan
    let roofSeconds = 0
    const newRoofs = async (): Promise<Roofs> => {
      const start = performance.now()
      const roofs = await measureRoofs(backend as BackendName, plan.device, signal, plan.roofOctaves, plan.roofBytes)
      roofSeconds = (performance.now() - start) / 1000
      return roofs
    }
    if (backend !== 'webgpu') {
      onProgress('roofs', secondsLeft(0))
      await attempt(
        async () => void (findings.roofs = await newRoofs()),
        (reason) => findings.notes.push(`the roofs were not measured: ${reason}`),
      )
    }
    if (gpu !== null) {
      findings.notes.push(...notesOf(gpu))
    } else if (backend === 'cpu') {
      if (plan.roofBytes < Infinity)
        findings.notes.push(`the memory roofs end at ${plan.roofBytes / 2 ** 20} MiB, because the run is a short one`)
      const limits: Limits = { seconds: Math.min(1, plan.seconds / 10), rounds: 5, signal }
      onProgress('overhead of a call', limits.seconds + secondsLeft(0))
      await attempt(
        async () => void (findings.overhead = await measureOverhead(limits)),
        (reason) => findings.notes.push(`the overhead of a call was not measured: ${reason}`),
      )
    } else {
      if (findings.roofs !== null)
        findings.notes.push(`the arithmetic roof of 16-bit products comes from ${findings.roofs.bfloat16Source}`)
      findings.notes.push('the unfused methods run in host memory and are measured on the cpu backend only')
    }
    for (const [i, benchCase] of plan.cases.entries()) {
      onProgress(caseText(benchCase), secondsLeft(i))
      // A case that exceeds its share shortens the later cases and does not extend the run.
      const remaining = Math.max(0, budgetLeft(1 - SHARE_TO_REPEAT))
      const seconds = remaining / (plan.cases.length - i) / passes.length
      await attempt(
        async () => void findings.results.push(...(await timed(benchCase, seconds))),
        (reason) => findings.failures.push({ ...benchCase, reason }),
      )
    }
    // The roofs first: a time below its floor shows that they were disturbed.
    const { roofs } = findings
    if (
      roofs !== null &&
      findings.results.some(({ doubts }) => doubts.includes('floor')) &&
      roofSeconds < budgetLeft(1)
    ) {
      onProgress('roofs, again', budgetLeft(1))
      await attempt(
        async () => {
          useRoofs(fasterRoofs(roofs, await newRoofs()), findings, plan)
        },
        (reason) => findings.notes.push(`the roofs were not measured again: ${reason}`),
      )
    }
    const inDoubt = plan.cases.filter((each) => countDoubts(findings.results.filter(isOf(each))) > 0)
    for (const [i, benchCase] of inDoubt.entries()) {
      if (excess.get(benchCase)! >= budgetLeft(1)) continue
      onProgress(`${caseText(benchCase)}, again`, budgetLeft(1))
      const before = findings.results.filter(isOf(benchCase))
      await attempt(
        async () => {
          const again = await timed(benchCase, Math.max(0, budgetLeft(1)) / (inDoubt.length - i) / passes.length)
          if (countDoubts(again) > countDoubts(before)) return
          findings.results.splice(findings.results.indexOf(before[0]), before.length, ...again)
        },
        (reason) => findings.notes.push(`${caseText(benchCase)} was not measured again: ${reason}`),
      )
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
  findings.notes.push(...notesOfDoubts(findings.results))
}

const caseText = ({ shape, dtype, routing }: Case): string => `${shapeText(shape)} ${dtype} ${routing}`

const isOf =
  (benchCase: Case) =>
  (result: Result): boolean =>
    caseText(result) === caseText(benchCase)

const countDoubts = (results: readonly Result[]): number => results.reduce((sum, { doubts }) => sum + doubts.length, 0)

/** Computes the floors of all results anew. */
function useRoofs(roofs: Roofs, findings: Findings, plan: Plan): void {
  findings.roofs = roofs
  for (const [i, result] of findings.results.entries()) {
    const work = methodWork(result.method, result, result.rank)
    const minimum = minimumOf(work, result, result.pass, setCountOf(work, result, plan, findings.notes), roofs)
    findings.results[i] = { ...result, ...minimum, doubts: doubtsOf(result, minimum.floor) }
  }
}

/** An estimate of the time that a case takes with the minimum number of rounds; 0 without roofs. */
function minimumSeconds(benchCase: Case, plan: Plan, roofs: Roofs | null): number {
  if (roofs === null) return 0
  const rank = equalParametersRank(plan.model, benchCase.shape)
  const calls = passes.flatMap((pass) =>
    selectedMethods(benchCase, plan).map((method) => {
      const { floor } = minimumOf(methodWork(method, benchCase, rank), benchCase, pass, 1, roofs)
      return Math.max(floor! / TYPICAL_SHARE_OF_FLOOR, SAMPLE_SECONDS)
    }),
  )
  return calls.reduce((sum, seconds) => sum + seconds, 0) * (CALLS_BEFORE_ROUNDS + plan.rounds)
}

/** TensorFlow.js on the device of WebGPU, if it is measured. */
const tensorFlowOf = ({ gpu }: Plan): TensorFlow | null =>
  gpu === null || typeof gpu.tensorFlow === 'string' ? null : gpu.tensorFlow

const selectedMethods = (benchCase: Case, plan: Plan): Method[] =>
  methodsOf(methods, benchCase, plan.backend, plan.withLayer, tensorFlowOf(plan) !== null)

/** What the times of a device of WebGPU are worth. */
function notesOf({ device, isSoftware, tensorFlow }: Gpu): string[] {
  return [
    ...(isSoftware
      ? ['THE ADAPTER IS SOFTWARE: a program on the CPU computes, and these times say nothing about any GPU']
      : []),
    device.features.has('timestamp-query')
      ? 'times are differences of timestamps in the queue of the device'
      : 'the device has no timestamp queries: times include what the host takes to submit',
    'the roofs of a device of WebGPU are not measured',
    ...(typeof tensorFlow === 'string' ? [`TensorFlow.js is not measured: ${tensorFlow}`] : []),
  ]
}

/** Shape and routing that determine the work of a method. */
interface MethodWork {
  readonly shape: Shape
  readonly routing: WorkRouting
  readonly hasAdapter: boolean
  readonly hasLayer: boolean
}

const methodWork = (method: Method, { shape, routing }: Case, equalRank: number): MethodWork => ({
  shape: method === 'lora-equal-parameters' ? { ...shape, rank: equalRank } : shape,
  routing: method.startsWith('lora') ? 'none' : routing,
  hasAdapter: method !== 'layer',
  hasLayer: hasLayer(method),
})

function phasesOfMethod(work: MethodWork, types: DTypes, withBackward: boolean): Phase[] {
  return [
    ...(work.hasLayer ? layerPhasesOf(work.shape, types, withBackward) : []),
    ...(work.hasAdapter ? phasesOf(work.shape, work.routing, types, withBackward) : []),
  ]
}

/** Bytes of the arrays of a method. The little that an adapter adds to a layer is also counted for the layer alone. */
function setBytes({ shape, routing, hasLayer }: MethodWork, types: DTypes, withBackward: boolean): number {
  return workingSet(shape, routing, types, withBackward) + (hasLayer ? layerBytes(shape, types) : 0)
}

function measureCase(benchCase: Case, plan: Plan, limits: Limits, findings: Findings): Promise<Result[]> {
  const { gpu } = plan
  if (gpu === null) return measureMethods(benchCase, plan, limits, findings)
  const longer = { ...limits, sampleSeconds: GPU_SAMPLE_SECONDS }
  return withErrors(gpu, () => measureMethods(benchCase, plan, longer, findings))
}

async function measureMethods(
  benchCase: Case,
  plan: Plan,
  limits: Limits,
  { roofs, notes }: Findings,
): Promise<Result[]> {
  const { shape } = benchCase
  const { gpu } = plan
  const tensorFlow = tensorFlowOf(plan)
  const equalRank = equalParametersRank(plan.model, shape)
  const selected = selectedMethods(benchCase, plan)
  if (plan.backend === 'cpu' && !selected.includes('lily-composed')) {
    notes.push(`${shapeText(shape)}, token routing: unfused Lily is not measured, because E r is larger than 4096`)
  }

  const setCount = (method: Method): number =>
    setCountOf(methodWork(method, benchCase, equalRank), benchCase, plan, notes)
  if (plan.backend === 'cpu') {
    const bytes = selected.map((method) => {
      return setCount(method) * setBytes(methodWork(method, benchCase, equalRank), dtypes[benchCase.dtype], true)
    })
    checkMemory(Math.max(...bytes))
  }

  const resources: { dispose: () => void }[] = []
  const keep = <T extends Tensor | Graph | ComposedAdapter>(resource: T): T => {
    resources.push(resource)
    return resource
  }
  const device = gpu === null ? DEVICE : gpu.lily.device
  const place = (tensor: Tensor): Tensor => (plan.backend === 'cpu' ? tensor : keep(tensor.to(device)))
  try {
    const clock = gpu !== null ? gpuClock(gpu.device) : plan.backend === 'cuda' ? deviceClock(DEVICE) : hostClock
    const contenders = makeContenders(selected, benchCase, equalRank, setCount, { place, keep, tensorFlow })
    const differences =
      plan.backend === 'cpu' ? null : await compareOutputs(selected, benchCase, equalRank, place, keep)
    const results: Result[] = []
    for (const pass of passes) {
      const samples = await sampleInterleaved(
        contenders.map((calls) => (count) => clock(calls[pass], count)),
        limits,
      )
      const samplesOf = (method: Method): number[] | undefined => samples[selected.indexOf(method)]
      for (const [i, method] of selected.entries()) {
        const work = methodWork(method, benchCase, equalRank)
        const fused = samplesOf(method.replace(/-(composed|graph)$/, '') as Method)
        const timing = timingOf(samples[i])
        const minimum = minimumOf(work, benchCase, pass, setCount(method), roofs)
        results.push({
          ...benchCase,
          pass,
          method,
          rank: work.shape.rank,
          ...timing,
          ...minimum,
          doubts: doubtsOf(timing, minimum.floor),
          difference: differences?.get(method) ?? null,
          lilyRatio: ratioOf(samplesOf('lily')!, samples[i]),
          ratioToLora: medianRatio(samples[i], samplesOf('lora')!),
          ratioToLayer:
            method === 'lily-layer' || method === 'lora-layer' ? medianRatio(samples[i], samplesOf('layer')!) : null,
          ratioToFused: fused === undefined || fused === samples[i] ? null : medianRatio(samples[i], fused),
        })
      }
    }
    return results
  } finally {
    for (const resource of resources) resource.dispose()
  }
}

/** Refuses a case that cannot fit: Linux would grant the memory, and end the process when it is used. */
function checkMemory(bytes: number): void {
  const available = Math.min(totalmem(), process.constrainedMemory() || Infinity)
  if (bytes <= available) return
  const [needed, found] = [bytes, available].map((size) => (size / 2 ** 30).toFixed(1))
  throw new Error(`not enough memory: the operands have ${needed} GiB or more, this machine or cgroup has ${found} GiB`)
}

/** The number of operand sets that the calls of a method rotate. */
function setCountOf(work: MethodWork, benchCase: Case, plan: Plan, notes: string[]): number {
  if (plan.caches === 'warm') return 1
  const sets = coldSetCount(setBytes(work, dtypes[benchCase.dtype], false), plan.device)
  if (sets <= MAX_SETS) return sets
  const note = `${shapeText(benchCase.shape)}: operands are so small that ${MAX_SETS} rotated sets may fit in the cache`
  if (!notes.includes(note)) notes.push(note)
  return MAX_SETS
}

function minimumOf(
  work: MethodWork,
  { dtype }: Case,
  pass: Pass,
  setCount: number,
  roofs: Roofs | null,
): Pick<Result, 'flops' | 'bytes' | 'floor'> {
  const types = dtypes[dtype]
  const withBackward = pass !== 'forward'
  const phases = phasesOfMethod(work, types, withBackward)
  const rotatedBytes = setCount === 1 ? 0 : setCount * setBytes(work, types, withBackward)
  return { ...workOf(phases), floor: roofs === null ? null : floorOf(phases, rotatedBytes, types, roofs) }
}
