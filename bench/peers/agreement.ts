/** Compares the outputs of a peer with this package's: a ratio of times means little without it. */
import type { DTypeName } from '../workload/dtypes.js'
import type { Outputs } from './protocol.js'

/**
 * Limits of the relative difference |peer - ours| / |ours|, in the Frobenius norm. Both compute the same formula in
 * different orders. In 16 bits PyTorch rounds every intermediate result, and this package only the operands of the large
 * products: each rounding is worth 2^-9 in bfloat16 and 2^-12 in float16. A float32 sum of thousands of terms differs by
 * some 10^-6.
 */
export const LIMITS: Readonly<Record<DTypeName, number>> = {
  float32: 1e-5,
  bfloat16: 0.02,
  float16: 0.0025,
  mixed: 0.02,
}

function difference(found: readonly number[], expected: readonly number[]): number {
  if (found.length !== expected.length) return Infinity
  const norm = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  const distance = norm(found.map((value, i) => value - expected[i]))
  return distance === 0 ? 0 : distance / norm(expected)
}

/** What differs more than rounding explains; null if nothing does. */
export function disagreement(found: Outputs, expected: Outputs, dtype: DTypeName): string | null {
  if (found.y === undefined) return 'the peer returned no y'
  const wrong = Object.entries(found).flatMap(([name, values]) => {
    const value = difference(values, expected[name] ?? [])
    return value <= LIMITS[dtype] ? [] : [`${name} differs by ${value.toPrecision(2)}`]
  })
  return wrong.length === 0 ? null : `${wrong.join(', ')} (relative; at most ${LIMITS[dtype]} is rounding)`
}
