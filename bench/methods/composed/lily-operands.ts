/** Operands of Lily as separate steps. */
import type { Routing } from '../../../lib/index.js'
import type { DTypes } from '../../workload/dtypes.js'
import type { Activations, LilyParameters } from '../../workload/operands.js'

export interface LilyOperands {
  readonly activations: Activations
  readonly parameters: LilyParameters
  readonly types: DTypes
  readonly routing: Routing
  /** Weights of fixed routing, [E]. */
  readonly weights: Float32Array
}

/** Lily with one kind of routing. backward needs what forward keeps until dispose. */
export interface LilySteps {
  readonly forward: () => void
  readonly backward: () => void
  readonly dispose: () => void
}
