/** Lily as separate steps. */
import type { Routing } from '../../lib/index.js'
import type { DTypes } from '../dtypes.js'
import type { Activations, LilyParameters } from '../operands.js'
import { composedPooled } from './pooled.js'
import { composedToken } from './token.js'

export interface Operands {
  readonly activations: Activations
  readonly parameters: LilyParameters
  readonly types: DTypes
  readonly routing: Routing
  /** Of fixed routing: [E]. */
  readonly weights: Float32Array
}

export interface Composed {
  readonly forward: () => void
  readonly both: () => void
}

export function composedLily(operands: Operands): Composed {
  return operands.routing === 'token' ? composedToken(operands) : composedPooled(operands)
}
