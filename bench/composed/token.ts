/** Token routing: there is no mixture, each token's own weights widen h to u = p (x) h, and y += u B. */
import { tensor } from '../../lib/index.js'
import { decode, encode } from '../dtypes.js'
import { zeros } from '../operands.js'
import type { Composed, Operands } from './lily.js'
import { softmaxBackward, softmaxRows } from './routing.js'
import { Expansion, Product, reshaped } from './steps.js'

export function composedToken({ activations, parameters, types }: Operands): Composed {
  const { x, y, dy, dx } = activations
  const { a, router, b, da, dRouter, db } = parameters
  const [tokens, d] = x.shape as [number, number]
  const [experts, rank] = router.shape as [number, number]
  const wide = experts * rank
  const type = types.activations

  const shrink = new Product(tokens, a, type)
  const logits = new Product(tokens, router, type)
  const u = zeros([tokens, wide], type)
  const du = zeros([tokens, wide], type)
  const expansion = new Expansion(u, reshaped(b, wide, d), y)
  const values = new Float32Array(tokens * wide)
  let p = new Float32Array(0)
  let h = new Float32Array(0)

  const forward = (): void => {
    shrink.forward(x)
    logits.forward(shrink.out)
    h = decode(shrink.out.data, type) as Float32Array<ArrayBuffer>
    p = Float32Array.from(decode(logits.out.data as Float32Array, type))
    softmaxRows(p, experts)
    for (let t = 0; t < tokens; t++) {
      for (let e = 0; e < experts; e++) {
        const weight = p[t * experts + e]
        for (let k = 0; k < rank; k++) values[t * wide + e * rank + k] = weight * h[t * rank + k]
      }
    }
    ;(u.data as Float32Array).set(encode(values, type))
    expansion.forward()
  }
  const backward = (): void => {
    expansion.backward(dy, du, db, true)
    const v = decode(du.data, type)
    const dp = new Float32Array(tokens * experts)
    const q = new Float32Array(tokens * rank)
    for (let t = 0; t < tokens; t++) {
      for (let e = 0; e < experts; e++) {
        const weight = p[t * experts + e]
        let inner = 0
        for (let k = 0; k < rank; k++) {
          const of = v[t * wide + e * rank + k]
          inner += h[t * rank + k] * of
          q[t * rank + k] += weight * of
        }
        dp[t * experts + e] = inner
      }
    }
    const dl = new Float32Array(tokens * experts)
    softmaxBackward(dl, p, dp, experts, 0, tokens, 1)
    const dh = tensor(encode(q, type), [tokens, rank], type)
    const dLogits = tensor(encode(dl, type), [tokens, experts], type)
    logits.addDx(dLogits, dh)
    logits.addDa(dLogits, dRouter)
    shrink.addDx(dh, dx)
    shrink.addDa(dh, da)
  }
  const dispose = (): void => {
    expansion.dispose()
    logits.dispose()
    shrink.dispose()
  }
  return {
    forward: () => {
      forward()
      dispose()
    },
    both: () => {
      forward()
      backward()
      dispose()
    },
  }
}
