/**
 * Lily with token routing as separate steps. It needs no combined projector: with u_t = p_t (x) h_t, the expansion is
 * y += u B, and its gradient v_t = dy_t B^T.
 */
import { tensor } from '../../../lib/index.js'
import { decode, encode } from '../../workload/dtypes.js'
import { zeros } from '../../workload/operands.js'
import type { LilyOperands, LilySteps } from './lily-operands.js'
import { softmaxBackward, softmaxRows } from './routing.js'
import { Expansion, Product, reshaped } from './steps.js'

/** u_t = p_t (x) h_t, of all tokens: u [M, E r] from p [M, E] and h [M, r]. */
function spreadHidden(u: Float32Array, probs: Float32Array, hidden: Float32Array, experts: number): void {
  const tokens = probs.length / experts
  const rank = hidden.length / tokens
  for (let t = 0; t < tokens; t++) {
    for (let e = 0; e < experts; e++) {
      const weight = probs[t * experts + e]
      for (let k = 0; k < rank; k++) u[(t * experts + e) * rank + k] = weight * hidden[t * rank + k]
    }
  }
}

/** The gradients of p and h from the gradient of u: dp_te = <h_t, v_te> and q_t = sum_e p_te v_te. */
function spreadBackward(
  v: Float32Array,
  probs: Float32Array,
  hidden: Float32Array,
  experts: number,
): { dProbs: Float32Array; q: Float32Array } {
  const tokens = probs.length / experts
  const rank = hidden.length / tokens
  const dProbs = new Float32Array(probs.length)
  const q = new Float32Array(hidden.length)
  for (let t = 0; t < tokens; t++) {
    for (let e = 0; e < experts; e++) {
      const weight = probs[t * experts + e]
      let inner = 0
      for (let k = 0; k < rank; k++) {
        const value = v[(t * experts + e) * rank + k]
        inner += hidden[t * rank + k] * value
        q[t * rank + k] += weight * value
      }
      dProbs[t * experts + e] = inner
    }
  }
  return { dProbs, q }
}

export function tokenSteps({ activations, parameters, types }: LilyOperands): LilySteps {
  const { x, y, dy, dx } = activations
  const { a, router, b, da, dRouter, db } = parameters
  const [tokens, d] = x.shape as [number, number]
  const [experts, rank] = router.shape as [number, number]
  const wide = experts * rank
  const type = types.activations

  const shrink = new Product(tokens, a, type)
  const logits = new Product(tokens, router, type)
  const u = zeros([tokens, wide], type)
  const v = zeros([tokens, wide], type)
  const expansion = new Expansion(u, reshaped(b, wide, d), y)
  const uValues = new Float32Array(tokens * wide)
  let probs = new Float32Array(0)
  let hidden = new Float32Array(0)

  const forward = (): void => {
    shrink.forward(x)
    logits.forward(shrink.out)
    hidden = decode(shrink.out.data, type) as Float32Array<ArrayBuffer>
    probs = Float32Array.from(decode(logits.out.data as Float32Array, type))
    softmaxRows(probs, experts)
    spreadHidden(uValues, probs, hidden, experts)
    ;(u.data as Float32Array).set(encode(uValues, type))
    expansion.forward()
  }
  const backward = (): void => {
    expansion.backward(dy, v, db, true)
    const { dProbs, q } = spreadBackward(decode(v.data, type), probs, hidden, experts)
    const dLogits = new Float32Array(tokens * experts)
    softmaxBackward(dLogits, probs, dProbs, experts, { begin: 0, end: tokens }, 1)
    const dHidden = tensor(encode(q, type), [tokens, rank], type)
    const dOut = tensor(encode(dLogits, type), [tokens, experts], type)
    logits.addDx(dOut, dHidden)
    logits.addDa(dOut, dRouter)
    shrink.addDx(dHidden, dx)
    shrink.addDa(dHidden, da)
  }
  const dispose = (): void => {
    expansion.dispose()
    logits.dispose()
    shrink.dispose()
  }
  return { forward, backward, dispose }
}
