import type { Caches } from '../../bench/harness/cold-caches.js'
import type { BenchBackend } from '../../bench/workload/cases.js'
import type { DTypeName } from '../../bench/workload/dtypes.js'
import type { Shape } from '../../bench/workload/shapes.js'
import type { Routing } from '../../lib/index.js'

/** The options of `lily-kernels bench`, as commander parses them. */
export interface BenchOptions {
  readonly shape: readonly Shape[]
  readonly dtype: readonly DTypeName[]
  readonly routing: readonly Routing[]
  readonly backend: readonly BenchBackend[]
  readonly threads?: number
  readonly caches?: Caches
  readonly layers: number
  readonly strideA: number
  readonly layer?: boolean
  readonly seconds?: number
  readonly quick?: boolean
  /** True: write JSON to stdout. */
  readonly json?: string | true
  readonly html?: string
}
