/** The arrays that ranks average in tests, which each rank and the test make from seeds, and their average. */
import { pack, roundAll, unpack, type Float } from './dtypes.js'
import { gaussian, integer, randomFrom } from './random.js'

/** One call of averageGradients. */
export interface Averaged {
  readonly name: string
  readonly arrays: readonly { readonly dtype: Float; readonly length: number; readonly valueDtype?: Float }[]
  /** Of each rank, again from the first one for further ranks. Default: left out. */
  readonly weights?: readonly number[] | 'sum'
  readonly bucketBytes?: number
  /** 'bits': random bits, with infinities, NaN and subnormal numbers. Default: numbers of many sizes. */
  readonly values?: 'bits' | 'NaN where the weight is 0'
}

const random = randomFrom(1)
const TYPES = ['float32', 'bfloat16', 'float16'] as const
const all = (length: number) => TYPES.map((dtype) => ({ dtype, length }))

/** Sizes around those at which slices and buckets end. */
export const CALLS: readonly Averaged[] = [
  { name: 'no number', arrays: all(0) },
  { name: 'one number', arrays: all(1) },
  { name: 'odd sizes', arrays: [...all(3), ...all(7), ...all(0), ...all(1001)] },
  { name: 'several buckets', arrays: [...all(5000), ...all(17)], bucketBytes: 4096 },
  { name: 'buckets that divide nothing', arrays: [...all(1234), ...all(1)], bucketBytes: 1000 },
  { name: 'tiny buckets', arrays: all(37), bucketBytes: 16 },
  {
    name: '300 parameters',
    arrays: Array.from({ length: 300 }, () => ({
      dtype: TYPES[integer(random, 0, 2)],
      length: integer(random, 0, 90),
    })),
    bucketBytes: 2048,
    weights: [7, 2, 3, 5],
  },
  {
    name: 'gradients of 16-bit values in float32',
    arrays: [
      { dtype: 'float32', length: 333, valueDtype: 'bfloat16' },
      { dtype: 'float32', length: 65, valueDtype: 'float16' },
      { dtype: 'bfloat16', length: 129 },
    ],
    weights: [1, 3],
  },
  { name: 'weights that are no integers', arrays: all(2001), weights: [0.1, 0.7, 1e-3, 12.34] },
  { name: 'a rank without a token', arrays: all(501), weights: [5, 0, 3, 1] },
  // A mean over no token is NaN.
  {
    name: 'NaN of a rank without a token',
    arrays: all(99),
    weights: [2, 0, 3, 0],
    values: 'NaN where the weight is 0',
  },
  { name: 'the first rank without a token', arrays: all(501), weights: [0, 4, 1, 9] },
  { name: 'sums', arrays: all(2001), weights: 'sum' },
  { name: 'any bits', arrays: all(6000), values: 'bits', bucketBytes: 8192 },
  { name: 'sums of any bits', arrays: all(6000), values: 'bits', weights: 'sum' },
  {
    name: 'a long array',
    arrays: [{ dtype: 'float32', length: 100_003 }],
    weights: [3, 1, 4, 1],
    bucketBytes: 2 ** 16,
  },
]

export const weightOf = ({ weights }: Averaged, rank: number): number | 'sum' | undefined =>
  typeof weights === 'object' ? weights[rank % weights.length] : weights

/** The gradients of a rank: the arrays of operands. */
export function gradientsOf(call: Averaged, rank: number): (Float32Array | Uint16Array)[] {
  const { arrays, values, name } = call
  const random = randomFrom(name.length * 1000 + rank)
  return arrays.map(({ dtype, length }) => {
    if (values === 'bits') return anyBits(dtype, length, random)
    if (values !== undefined && weightOf(call, rank) === 0) return pack(dtype, new Float32Array(length).fill(NaN))
    // The exponents differ, so that another order of addition has other bits.
    const scale = gaussian(random, length)
    return pack(
      dtype,
      gaussian(random, length).map((value, i) => value * 2 ** Math.round(3 * scale[i])),
    )
  })
}

function anyBits(dtype: Float, length: number, random: () => number): Float32Array | Uint16Array {
  const words = Uint32Array.from({ length }, () => Math.floor(random() * 2 ** 32))
  if (dtype === 'float32') return new Float32Array(words.buffer)
  return Uint16Array.from(words, (word) => word >>> 16)
}

/**
 * The average of the gradients of all ranks as the contract has it: sum_r c_r g_r in float32 in the order of ranks, where c_r
 * is weight_r / sum of weights, rounded to float32, and one rounding to 16 bits. A rank with the weight 0 is left out: its
 * gradients may be NaN.
 */
export function averageOf(call: Averaged, ranks: number): Float32Array[] {
  const gradients = Array.from({ length: ranks }, (_, rank) => gradientsOf(call, rank))
  const weights = gradients.map((_, rank) => weightOf(call, rank) ?? 1)
  const factors = weights.map((weight) => {
    if (weight === 'sum') return 1
    const sum = (weights as number[]).reduce((left, right) => left + right, 0)
    return Math.fround(weight / sum)
  })
  const [first, ...others] = factors.flatMap((factor, rank) => (factor === 0 ? [] : [rank]))
  return call.arrays.map(({ dtype, length }, i) => {
    const terms = gradients.map((arrays) => unpack(dtype, arrays[i]))
    const sum = new Float32Array(length)
    for (let j = 0; j < length; j++) {
      let total = Math.fround(factors[first] * terms[first][j])
      for (const r of others) total = Math.fround(total + Math.fround(factors[r] * terms[r][j]))
      sum[j] = total
    }
    return roundAll(dtype, sum)
  })
}
