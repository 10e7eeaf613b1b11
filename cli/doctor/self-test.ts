/** A problem small enough to be solved by hand, for each backend that claims to work. */
import { lilyBackward, lilyForward, tensor, type Tensor } from '../../lib/index.js'
import type { SelfTest } from './findings.js'

/**
 * M = 2, d_in = d_out = 2, r = 1, E = 2, s = 2. The router is zero, so both experts weigh 1/2, and every number on the
 * way has few bits: the results are exact in any order of the sums.
 */
const operands = {
  x: tensor(new Float32Array([1, 2, 3, 4]), [2, 2]),
  a: tensor(new Float32Array([1, 1]), [1, 2]),
  router: tensor(new Float32Array([0, 0]), [2, 1]),
  b: tensor(new Float32Array([1, 0, 0, 2]), [2, 1, 2]),
  dy: tensor(new Float32Array([1, 1, 1, 1]), [2, 2]),
}
const expected = {
  y: [3, 6, 7, 14], // h = x a^T = 3, 7; C = 1/2 (b_0 + b_1) = 1/2, 1; y = 2 h C
  dx: [3, 3, 3, 3], // q = 2 dy C^T = 3, 3; dl R = 0; dx = q a
  da: [12, 18], // q^T x
  dRouter: [-25, 25], // D = 2 h^T dy = 20, 20; dw = <b_e, D> = 20, 40; dl = -+2.5 for both tokens; dl^T h
  db: [10, 10, 10, 10], // 1/2 D for both experts
}

/** Forward and backward on a backend's first device. */
export async function selfTest(backend: 'cpu' | 'cuda'): Promise<SelfTest> {
  const place = (operand: Tensor): Tensor => (backend === 'cuda' ? operand.to({ type: 'cuda', id: 0 }) : operand)
  try {
    const { x, a, router, b, dy } = operands
    const { y, saved } = lilyForward({ x: place(x), a: place(a), router: place(router), b: place(b) }, { scaling: 2 })
    const results: Record<string, Tensor> = { y, ...lilyBackward({ dy: place(dy) }, saved) }
    for (const [name, values] of Object.entries(expected)) {
      const result = results[name]
      const found = [...(backend === 'cuda' ? await result.toHost() : result).data]
      if (String(found) !== String(values)) {
        return { passed: false, reason: `${name} is ${String(found)}, not ${String(values)}` }
      }
    }
    return { passed: true }
  } catch (error) {
    return { passed: false, reason: error instanceof Error ? error.message : String(error) }
  }
}
