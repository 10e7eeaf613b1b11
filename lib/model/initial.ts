/** Initial values of parameters: the distributions of PEFT, drawn as PyTorch draws them. */
import { uniformFloat32 } from 'pure-rand/distribution/uniformFloat32'
import { mersenne } from 'pure-rand/generator/mersenne'
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator'
import type { DType } from '../base/dtype.js'
import { allocateOnHost } from '../memory/allocate.js'
import { fromFloat32 } from '../tensor/numbers.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { ParameterShape } from './layout.js'

/** The distribution of the values of a parameter. */
export type Distribution = 'zero' | 'uniform' | { readonly standardDeviation: number }

export const ZERO = 'zero'

/** In [-1/sqrt(n), 1/sqrt(n)) for n columns: torch.nn.init.kaiming_uniform_ with a = sqrt(5). */
export const UNIFORM = 'uniform'

/** The distribution of each parameter. */
export type Initialisation = (parameter: ParameterShape) => Distribution

/**
 * Initial values by parameter name. They equal those of PyTorch's CPU generator: `torch.manual_seed(seed)`, then
 * `torch.empty(shape).uniform_(-bound, bound)` or `.normal_(0, deviation)` for one parameter after the other, in the order
 * given. Uniform values have the same bits. Normal values agree to rounding: the logarithms and cosines of PyTorch are in
 * float32 and depend on the processor, those here are in float64.
 */
export function initialValues(
  parameters: Iterable<ParameterShape>,
  seed: number,
  dtype: DType,
  initialisation: Initialisation,
): Map<string, Tensor> {
  const random = new Random(seed)
  const values = new Map<string, Tensor>()
  for (const parameter of parameters) {
    const { name, shape } = parameter
    const numbers = allocateOnHost(name, 'float32', shape[0] * shape[1]) as Float32Array
    const distribution = initialisation(parameter)
    if (distribution === ZERO) numbers.fill(0)
    else if (distribution === UNIFORM) random.fillUniform(numbers, Math.fround(1 / Math.sqrt(shape[1])))
    else random.fillNormal(numbers, distribution.standardDeviation)
    values.set(name, tensor(fromFloat32(dtype, numbers), shape, dtype))
  }
  return values
}

/** Pairs of normal numbers are formed from elements at this distance, in groups of twice as many. */
const LANES = 8
const GROUP = 2 * LANES

/** PyTorch's CPU generator, MT19937, and its distributions. */
class Random {
  readonly #generator: RandomGenerator
  /** The second number of the last pair of {@link #smallNormal}. */
  #nextNormal: number | null = null

  constructor(seed: number) {
    this.#generator = mersenne(seed)
  }

  /** Uniform in [-bound, bound), a float32 number: the low 24 bits of one output for each element. */
  fillUniform(numbers: Float32Array, bound: number): void {
    const width = 2 * bound
    // Exact in float64 and so rounded once, to float32, like the fused multiply-add of PyTorch.
    for (let i = 0; i < numbers.length; i++) numbers[i] = uniformFloat32(this.#generator) * width - bound
  }

  /** Normal numbers of mean 0 by the transformation of Box and Muller. */
  fillNormal(numbers: Float32Array, deviation: number): void {
    const { length } = numbers
    if (length < GROUP) {
      for (let i = 0; i < length; i++) numbers[i] = this.#smallNormal() * deviation
      return
    }
    for (let i = 0; i < length; i++) numbers[i] = uniformFloat32(this.#generator)
    for (let begin = 0; begin + GROUP <= length; begin += GROUP) toNormal(numbers, begin, deviation)
    if (length % GROUP === 0) return
    // The rest is part of a group that ends with the array, and is drawn again.
    for (let i = length - GROUP; i < length; i++) numbers[i] = uniformFloat32(this.#generator)
    toNormal(numbers, length - GROUP, deviation)
  }

  /** For arrays of less than a group: from two numbers of 53 bits, two normal numbers one after the other. */
  #smallNormal(): number {
    const next = this.#nextNormal
    this.#nextNormal = null
    if (next !== null) return next
    const angle = 2 * Math.PI * this.#uniform53()
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniform53()))
    this.#nextNormal = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }

  #uniform53(): number {
    const high = this.#generator.next() & 0x1f_ffff
    const low = this.#generator.next() >>> 0
    return (high * 2 ** 32 + low) / 2 ** 53
  }
}

/** Replaces a group of uniform numbers in [0, 1) by normal ones. */
function toNormal(numbers: Float32Array, begin: number, deviation: number): void {
  for (let i = begin; i < begin + LANES; i++) {
    // Not the logarithm of zero.
    const radius = Math.sqrt(-2 * Math.log(1 - numbers[i])) * deviation
    const angle = 2 * Math.PI * numbers[i + LANES]
    numbers[i] = radius * Math.cos(angle)
    numbers[i + LANES] = radius * Math.sin(angle)
  }
}
