/** The self-test of a backend: a problem that is small enough to solve by hand, in each data type. */
import { type BackendInfo, cast, lilyBackward, lilyForward, tensor, type Tensor } from '../../lib/index.js'
import type { SelfTest } from './diagnosis.js'
import { operands, type ResultName, SCALING, wrongResult } from './problem.js'

/** Each has kernels of its own, which may use other instructions: AMX multiplies bfloat16 only. */
const DTYPES = ['float32', 'bfloat16', 'float16'] as const

/** Runs forward and backward on the first device of a backend. */
export async function selfTest({ name, devices }: Pick<BackendInfo, 'name' | 'devices'>): Promise<SelfTest> {
  try {
    for (const dtype of DTYPES) {
      const place = (operand: keyof typeof operands): Tensor => {
        const { data, shape } = operands[operand]
        return cast(tensor(data, shape), dtype).to({ type: name, id: devices[0].id })
      }
      const [x, a, router, b, dy] = [place('x'), place('a'), place('router'), place('b'), place('dy')]
      const { y, saved } = lilyForward({ x, a, router, b }, { scaling: SCALING })
      const { dx, da, dRouter, db } = lilyBackward({ dy }, saved)
      const results = { y, dx, da, dRouter, db }
      const read = async (of: ResultName) =>
        [of, cast(await results[of].toHost(), 'float32').data as Float32Array] as const
      const entries = await Promise.all((Object.keys(results) as ResultName[]).map(read))
      const reason = wrongResult(Object.fromEntries(entries) as Record<ResultName, Float32Array>, dtype)
      if (reason !== null) return { passed: false, reason }
    }
    return { passed: true }
  } catch (error) {
    return { passed: false, reason: error instanceof Error ? error.message : String(error) }
  }
}
