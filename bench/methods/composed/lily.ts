/** Lily as separate steps. */
import type { Calls } from '../methods.js'
import type { LilyOperands } from './lily-operands.js'
import { composedPooled } from './pooled.js'
import { composedToken } from './token.js'

export function composedLily(operands: LilyOperands): Calls {
  return operands.routing === 'token' ? composedToken(operands) : composedPooled(operands)
}
