/** The results of a run on one backend. `--json` writes a list of reports, one per backend. */
import type { Method, Pass } from '../methods/methods.js'
import type { Roofs } from '../roofs/roofs.js'
import type { BenchBackend, Case } from '../workload/cases.js'
import type { Model } from '../workload/trainable-parameters.js'
import type { Caches } from './cold-caches.js'
import type { Doubt } from './doubts.js'
import type { Overhead } from './overhead.js'
import type { Ratio, Timing } from './sampling.js'

export interface Result extends Timing, Case {
  readonly pass: Pass
  readonly method: Method
  /** The rank of the method. It is the rank of `shape`, except for LoRA with equal trainable parameters. */
  readonly rank: number
  /** The minimum that a call must compute. */
  readonly flops: number
  /** The minimum that a call must read and write. */
  readonly bytes: number
  /** The minimum time that the roofs allow, in seconds; null if no roofs were measured. */
  readonly floor: number | null
  /** Why the time is in doubt, although it was measured again if the time budget allowed it; `notes` of the report explain it. */
  readonly doubts: readonly Doubt[]
  /** Largest relative difference of a block of the outputs from the cpu backend's; null if they are its own. */
  readonly difference: number | null
  /** Time of fused Lily relative to this method; null in reports of earlier versions, which did not have it. */
  readonly lilyRatio: Ratio | null
  /** Median of the time ratios to fused LoRA of the same rank. */
  readonly ratioToLora: number
  /** For the frozen layer with an adapter: median of the time ratios to the frozen layer alone; otherwise null. */
  readonly ratioToLayer: number | null
  /** For composed methods and graphs: median of the time ratios to the fused calls. */
  readonly ratioToFused: number | null
}

/** A case that could not be measured. */
export interface Failure extends Case {
  /** The error, as one line. */
  readonly reason: string
}

export interface Report {
  /** What the results say, in one sentence. */
  readonly verdict: string
  readonly version: string
  /** ISO 8601. */
  readonly measuredAt: string
  readonly command: string
  /** False if the run was interrupted. Failures do not end a run. */
  readonly complete: boolean
  readonly machine: {
    readonly backend: BenchBackend
    readonly device: string
    /** Instruction set of a CPU, compute capability of a GPU; on WebGPU, what kind of adapter it is. */
    readonly detail: string
    /** Threads of the cpu backend; null on a GPU. */
    readonly threads: number | null
    readonly platform: string
    readonly node: string
  }
  readonly caches: Caches
  readonly model: Model
  readonly roofs: Roofs | null
  readonly overheadSeconds: Overhead | null
  /** Limitations of the run, for example methods that were not measured. */
  readonly notes: readonly string[]
  readonly results: readonly Result[]
  /** Cases that were skipped because of an error. Their passes are not part of `results`. */
  readonly failures: readonly Failure[]
}
