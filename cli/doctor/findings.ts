/** What `lily-kernels doctor` reports. */
import type { BackendInfo } from '../../lib/memory/backends.js'

export interface SelfTest {
  readonly passed: boolean
  /** What came out wrong. */
  readonly reason?: string
}

export interface Diagnosis {
  /** Whether the package works here: the addon loads, the cpu backend is available, every self-test passes. */
  readonly ok: boolean
  readonly version: string
  readonly node: string
  /** For example 'linux-x64'. */
  readonly platform: string
  readonly os: string
  /** For example 'glibc 2.41'; null where there is none of Linux's. */
  readonly libc: string | null
  readonly addon: { readonly loads: boolean; readonly reason?: string }
  /** Of the variables that the package reads, those that are set. */
  readonly environment: Readonly<Record<string, string>>
  /** Null where the addon does not load. */
  readonly processor: {
    /** Those that it has and that there are kernels for. */
    readonly instructionSets: readonly string[]
    /** The one in use. */
    readonly simd: string | null
    readonly threads: number | null
    /** What decided the number of threads. */
    readonly because: string
    /** Processors that this process may run on. */
    readonly affinity: number
    /** Null: the cgroup has no quota. */
    readonly quota: number | null
    readonly physicalCores: number
  } | null
  readonly backends: readonly (BackendInfo & { readonly selfTest?: SelfTest })[]
}
