import type { Caches } from '../../bench/harness/cold-caches.js'
import type { DTypeName } from '../../bench/workload/dtypes.js'
import type { Shape } from '../../bench/workload/shapes.js'
import type { BackendName, Routing } from '../../lib/index.js'

/** The options of `lily-kernels bench`, as commander parses them. */
export interface BenchOptions {
  readonly shape: readonly Shape[]
  readonly dtype: readonly DTypeName[]
  readonly routing: readonly Routing[]
  readonly backend: readonly BackendName[]
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
