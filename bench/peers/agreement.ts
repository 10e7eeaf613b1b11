/** Comparison of the outputs of a peer with those of this package: a ratio of times means little without it. */
import type { DTypeName } from '../workload/dtypes.js'
import type { Outputs } from './protocol.js'

/**
 * Limits of the relative difference |peer - ours| / |ours|, in the Frobenius norm. Both compute the same formula in
 * different orders. In 16 bits PyTorch rounds every intermediate result, and this package only the operands of the large
 * products: each rounding is worth 2^-9 in bfloat16 and 2^-12 in float16.
 */
const limits: Readonly<Record<DTypeName, number>> = { float32: 1e-4, bfloat16: 0.03, float16: 0.004, mixed: 0.03 }

/**
 * The gradient of the router is a small difference of probabilities, each of which the peer rounds to 16 bits: the rounding
 * is about as large as the difference.
 */
const isCompared = (name: string, dtype: DTypeName): boolean => name !== 'dRouter' || dtype === 'float32'

function difference(found: readonly number[], expected: readonly number[]): number {
  if (found.length !== expected.length) return Infinity
  const norm = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  const distance = norm(found.map((value, i) => value - expected[i]))
  return distance === 0 ? 0 : distance / norm(expected)
}

/** What differs more than rounding explains; null if nothing does. */
export function disagreement(found: Outputs, expected: Outputs, dtype: DTypeName): string | null {
  const names = Object.keys(found).filter((name) => isCompared(name, dtype))
  if (!names.includes('y')) return 'the peer returned no y'
  const wrong = names.flatMap((name) => {
    const value = difference(found[name], expected[name] ?? [])
    return value <= limits[dtype] ? [] : [`${name} differs by ${value.toPrecision(2)}`]
  })
  return wrong.length === 0 ? null : `${wrong.join(', ')} (relative; at most ${limits[dtype]} is rounding)`
}
