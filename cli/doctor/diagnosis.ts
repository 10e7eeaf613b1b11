/** The diagnosis that `lily-kernels doctor` reports. */
import type { BackendInfo } from '../../lib/memory/backends.js'

export interface SelfTest {
  readonly passed: boolean
  /** The wrong result or the error. */
  readonly reason?: string
}

export interface Diagnosis {
  /** Whether the package works here: the cpu backend is available, every self-test passes. */
  readonly ok: boolean
  readonly version: string
  readonly node: string
  /** For example 'linux-x64'. */
  readonly platform: string
  readonly os: string
  /** For example 'glibc 2.41'; null on systems other than Linux. */
  readonly libc: string | null
  /** `reason`: why it does not load; with a `processor`, WebAssembly runs in its place. */
  readonly addon: { readonly loads: boolean; readonly reason?: string | undefined }
  /** The environment variables that the package reads and that are set. */
  readonly environment: Readonly<Record<string, string>>
  /** Null if neither the addon nor WebAssembly loads. */
  readonly processor: {
    /** Supported by the processor and by the kernels. */
    readonly instructionSets: readonly string[]
    /** The instruction set in use. */
    readonly simd: string | null
    readonly threads: number | null
    /** The limit that determines the number of threads. */
    readonly because: string
    /** Number of processors in the CPU affinity of this process. */
    readonly affinity: number
    /** Null if the cgroup has no quota. */
    readonly quota: number | null
    /** Cores of the processors in the affinity. Null on WebAssembly, which cannot see them. */
    readonly physicalCores: number | null
    /** Why the operating system refuses the tile registers of AMX to this process; null if it does not. */
    readonly amxRefusal: string | null
  } | null
  readonly backends: readonly (BackendInfo & { readonly selfTest?: SelfTest })[]
  /** WebAssembly in Node.js. It runs in place of the addon where there is none. */
  readonly webassembly: {
    readonly available: boolean
    /** The build: 'wasm-relaxed' has instructions of relaxed SIMD. */
    readonly simd?: string
    /** Threads of a call, with the calling one. */
    readonly threads?: number
    /** Why it does not run, or why it has no other threads. */
    readonly reason?: string
    readonly selfTest?: SelfTest
  }
  /** WebGPU of the npm package `webgpu`, where the user runs the command or beside this package. */
  readonly webgpu: {
    readonly available: boolean
    /** The adapter as its driver describes it. */
    readonly name?: string
    /** Why there is none. */
    readonly reason?: string
    /** Absent on a software adapter, which takes long to compile the kernels. */
    readonly selfTest?: SelfTest
  }
  /** The MPI library of lily-kernels/mpi. Null if neither the addon nor WebAssembly loads. */
  readonly mpi:
    | { readonly available: true; readonly library: string; readonly file: string }
    | { readonly available: false; readonly reason: string }
    | null
}

/** The cores that limit the number of threads, as native/system/processor.h says. */
export function coresName(platform: string): string {
  return platform === 'darwin-arm64' ? 'performance cores' : 'physical cores'
}
