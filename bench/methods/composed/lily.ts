/** Lily as separate steps. */
import type { Calls } from '../methods.js'
import type { LilyOperands } from './lily-operands.js'
import { pooledSteps } from './pooled.js'
import { tokenSteps } from './token.js'

export function composedLily(operands: LilyOperands): Calls {
  const { forward, backward, dispose } = operands.routing === 'token' ? tokenSteps(operands) : pooledSteps(operands)
  return {
    forward: () => {
      forward()
      dispose()
    },
    'forward+backward': () => {
      forward()
      backward()
      dispose()
    },
  }
}
