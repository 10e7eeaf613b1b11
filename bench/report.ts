/** What a run has found out: `--json` writes a list of it, one for each backend; the table and the page are made of it. */
import type { BackendName, Routing } from '../lib/index.js'
import type { DTypeName } from './dtypes.js'
import type { Timing } from './measure.js'
import type { Overhead } from './overhead.js'
import type { Model } from './parameters.js'
import type { Roofs } from './roofs.js'
import type { Shape } from './shapes.js'

/**
 * Fused, but for the two that are composed of separate steps, which are measured on the cpu. The two graphs are the fused
 * calls, recorded and replayed, on a device.
 */
export const methods = [
  'lily',
  'lora',
  'lora-equal-parameters',
  'lily-composed',
  'lora-composed',
  'lily-graph',
  'lora-graph',
] as const
export type Method = (typeof methods)[number]

export const backendNames = ['cpu', 'cuda'] as const satisfies readonly BackendName[]

/** Cold: buffers rotate, so that caches hold nothing of the next call. */
export const cacheStates = ['warm', 'cold'] as const
export type Caches = (typeof cacheStates)[number]

export const passes = ['forward', 'forward+backward'] as const
export type Pass = (typeof passes)[number]
/** What a method does in each pass. */
export type Calls = Readonly<Record<Pass, () => void>>

export interface Result extends Timing {
  readonly shape: Shape
  readonly dtype: DTypeName
  readonly routing: Routing
  readonly pass: Pass
  readonly method: Method
  /** The method's own: that of `shape`, but for LoRA of equal trainable parameters. */
  readonly rank: number
  /** The least that a call has to compute, and to read and write. */
  readonly flops: number
  readonly bytes: number
  /** The least time that the roofs allow, in seconds; null where none were measured. */
  readonly floor: number | null
  /** Median of the ratios to fused LoRA of the same rank. */
  readonly ratioToLora: number
  /** Of a composed method and of a graph: median of the ratios to the fused calls. */
  readonly ratioToFused: number | null
}

export interface Report {
  readonly version: string
  /** ISO 8601. */
  readonly measuredAt: string
  readonly command: string
  /** False where the run was interrupted. */
  readonly complete: boolean
  readonly machine: {
    readonly backend: BackendName
    readonly device: string
    /** Instruction set of a CPU, compute capability of a GPU. */
    readonly detail: string
    /** Of the cpu backend. */
    readonly threads: number | null
    readonly platform: string
    readonly node: string
  }
  readonly caches: Caches
  readonly model: Model
  readonly roofs: Roofs | null
  readonly overheadSeconds: Overhead | null
  /** Why something was left out. */
  readonly notes: readonly string[]
  readonly results: readonly Result[]
}
