/** One run of the benchmark on one backend: the roofs, the overhead of a call, then case by case. */
import { totalmem } from 'node:os'
import type { CudaDevice, DeviceInfo, Graph, Tensor } from '../../lib/index.js'
import type { ComposedAdapter } from '../methods/composed/tensorflow.js'
import { makeContenders, methodsOf } from '../methods/contenders.js'
import { hasLayer, type Method, methods, type Pass, passes } from '../methods/methods.js'
import { floorOf } from '../roofs/floor.js'
import { measureRoofs, type Roofs } from '../roofs/roofs.js'
import { layerBytes, layerPhasesOf, type Phase, phasesOf, workingSet, workOf, type WorkRouting } from '../roofs/work.js'
import type { BenchBackend, Case } from '../workload/cases.js'
import { type DTypes, dtypes } from '../workload/dtypes.js'
import { type Shape, shapeText } from '../workload/shapes.js'
import { equalParametersRank, type Model } from '../workload/trainable-parameters.js'
import { type Caches, coldSetCount } from './cold-caches.js'
import { measureOverhead, type Overhead } from './overhead.js'
import { type Gpu, GPU_SAMPLE_SECONDS, gpuClock, withErrors } from './gpu.js'
import type { Failure, Result } from './report.js'
import { deviceClock, hostClock, type Limits, medianRatio, sampleInterleaved, timingOf } from './sampling.js'

export interface Plan {
  readonly backend: BenchBackend
  readonly device: DeviceInfo
  /** The open device of WebGPU; null on the other backends. */
  readonly gpu: Gpu | null
  readonly cases: readonly Case[]
  readonly caches: Caches
  readonly model: Model
  /** Measure the frozen layer, too, alone and with each adapter. */
  readonly withLayer: boolean
  /** Time budget of the whole run. The run exceeds it if the minimum number of rounds takes longer. */
  readonly seconds: number
  /** From one buffer of the memory roofs to the next. */
  readonly roofOctaves: number
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

/** Called before each step with the name of the step and the share of the run that is complete. */
export type OnProgress = (step: string, share: number) => void

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
  /** Runs a step; an error other than that of the signal goes to `onError`. */
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
    if (backend !== 'webgpu') {
      onProgress('roofs', 0)
      await attempt(
        async () => void (findings.roofs = await measureRoofs(backend, plan.device, signal, plan.roofOctaves)),
        (reason) => findings.notes.push(`the roofs were not measured: ${reason}`),
      )
    }
    if (gpu !== null) {
      findings.notes.push(...notesOf(gpu))
    } else if (backend === 'cpu') {
      onProgress('overhead of a call', 0.02)
      const limits: Limits = { seconds: Math.min(1, plan.seconds / 10), rounds: 5, signal }
      await attempt(
        async () => void (findings.overhead = await measureOverhead(limits)),
        (reason) => findings.notes.push(`the overhead of a call was not measured: ${reason}`),
      )
    } else {
      if (findings.roofs !== null)
        findings.notes.push(`the arithmetic roof of 16-bit products is that of ${findings.roofs.bfloat16Source}`)
      findings.notes.push('the unfused methods run in host memory and are measured on the cpu backend only')
    }
    for (const [i, benchCase] of plan.cases.entries()) {
      const { shape, dtype, routing } = benchCase
      onProgress(`${shapeText(shape)} ${dtype} ${routing}`, 0.03 + (0.97 * i) / plan.cases.length)
      // A case that exceeds its share shortens the later cases and does not extend the run.
      const remaining = Math.max(0, plan.seconds - (performance.now() - begin) / 1000)
      const seconds = remaining / (plan.cases.length - i) / passes.length
      const limits: Limits = { seconds, rounds: plan.rounds, signal }
      await attempt(
        async () => void findings.results.push(...(await measureCase(benchCase, plan, limits, findings))),
        (reason) => findings.failures.push({ ...benchCase, reason }),
      )
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

/** What the times of a device of WebGPU are worth. */
function notesOf({ device, isSoftware, tensorFlow }: Gpu): string[] {
  return [
    ...(isSoftware
      ? ['THE ADAPTER IS SOFTWARE: these times are those of a program on the CPU, and say nothing about any GPU']
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

/** Bytes of the arrays of a method. What an adapter adds to a layer counts for the layer alone, too: it is little. */
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
  const tensorFlow = gpu === null || typeof gpu.tensorFlow === 'string' ? null : gpu.tensorFlow
  const equalRank = equalParametersRank(plan.model, shape)
  const selected = methodsOf(methods, benchCase, plan.backend, plan.withLayer, tensorFlow !== null)
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
        results.push({
          ...benchCase,
          pass,
          method,
          rank: work.shape.rank,
          ...timingOf(samples[i]),
          ...minimumOf(work, benchCase, pass, setCount(method), roofs),
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
