/** The self-test of a backend: a problem that is small enough to solve by hand, in each data type. */
import { type BackendInfo, cast, lilyBackward, lilyForward, tensor, type Tensor } from '../../lib/index.js'
import type { SelfTest } from './diagnosis.js'

/** Each has kernels of its own, which may use other instructions: AMX multiplies bfloat16 only. */
const DTYPES = ['float32', 'bfloat16', 'float16'] as const

/**
 * M = 4, d_in = d_out = 2, r = 1, E = 2, s = 2; the last two tokens repeat the first two, because up to two tokens have
 * kernels without matrix units. The router is zero, so both weights are 1/2, and all intermediate results have few bits:
 * the outputs are exact in any order of summation and in every data type.
 */
const operands = {
  x: tensor(new Float32Array([1, 2, 3, 4, 1, 2, 3, 4]), [4, 2]),
  a: tensor(new Float32Array([1, 1]), [1, 2]),
  router: tensor(new Float32Array([0, 0]), [2, 1]),
  b: tensor(new Float32Array([1, 0, 0, 2]), [2, 1, 2]),
  dy: tensor(new Float32Array([1, 1, 1, 1, 1, 1, 1, 1]), [4, 2]),
}
const expected = {
  y: [3, 6, 7, 14, 3, 6, 7, 14], // hidden = x a^T = 3, 7, ...; combined = 1/2 (b_0 + b_1) = 1/2, 1; y = 2 hidden combined
  dx: [3, 3, 3, 3, 3, 3, 3, 3], // q = 2 dy combined^T = 3, 3, ...; d_logits router = 0; dx = q a
  da: [24, 36], // q^T x
  dRouter: [-50, 50], // d_combined = 2 hidden^T dy = 40, 40; d_weights = 40, 80; d_logits = -+2.5 for each token
  db: [20, 20, 20, 20], // 1/2 d_combined for both experts
}

/** Runs forward and backward on the first device of a backend. */
export async function selfTest({ name, devices }: Pick<BackendInfo, 'name' | 'devices'>): Promise<SelfTest> {
  const { x, a, router, b, dy } = operands
  try {
    for (const dtype of DTYPES) {
      const place = (operand: Tensor): Tensor => cast(operand, dtype).to({ type: name, id: devices[0].id })
      const { y, saved } = lilyForward({ x: place(x), a: place(a), router: place(router), b: place(b) }, { scaling: 2 })
      const { dx, da, dRouter, db } = lilyBackward({ dy: place(dy) }, saved)
      const results: Record<string, Tensor> = { y, dx, da, dRouter, db }
      for (const [result, values] of Object.entries(expected)) {
        const found = [...cast(await results[result].toHost(), 'float32').data]
        if (String(found) !== String(values)) {
          return { passed: false, reason: `${result} in ${dtype} is ${String(found)}, expected ${String(values)}` }
        }
      }
    }
    return { passed: true }
  } catch (error) {
    return { passed: false, reason: error instanceof Error ? error.message : String(error) }
  }
}
