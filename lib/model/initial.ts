/**
 * The numbers that parameters start with, as PEFT draws them: A uniform within 1/sqrt(d_in), the router within 1/sqrt(r)
 * (PyTorch's kaiming_uniform with a = sqrt(5)), B zero.
 */
import { uniformFloat32 } from 'pure-rand/distribution/uniformFloat32'
import { mersenne } from 'pure-rand/generator/mersenne'
import type { DType } from '../base/dtype.js'
import { allocateOnHost } from '../memory/allocate.js'
import { fromFloat32 } from '../tensor/numbers.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { SharedParameter } from './sharing.js'

/**
 * Values of parameters, by name. MT19937, seeded with `seed`, is drawn from once for each number, parameter by parameter
 * in the order given and row by row; its low 24 bits make one in [0, 1). That is what PyTorch does on the cpu: they are
 * the numbers of `torch.manual_seed(seed); torch.empty(shape).uniform_(-bound, bound)`, called for one after the other.
 *
 * @param drawB B is drawn too, within 1/sqrt(d_out)
 */
export function initialValues(
  parameters: Iterable<SharedParameter>,
  seed: number,
  dtype: DType,
  drawB: boolean,
): Map<string, Tensor> {
  const random = mersenne(seed)
  const values = new Map<string, Tensor>()
  for (const { name, kind, shape } of parameters) {
    const numbers = allocateOnHost(name, 'float32', shape[0] * shape[1]) as Float32Array
    if (kind === 'b' && !drawB) numbers.fill(0)
    else drawUniform(numbers, Math.fround(1 / Math.sqrt(shape[1])), () => uniformFloat32(random))
    values.set(name, tensor(fromFloat32(dtype, numbers), shape, dtype))
  }
  return values
}

/** draw * width - bound is exact in float64, so it is rounded once, as the fused multiply-add that PyTorch runs does. */
function drawUniform(numbers: Float32Array, bound: number, draw: () => number): void {
  const width = Math.fround(2 * bound)
  for (let i = 0; i < numbers.length; i++) numbers[i] = draw() * width - bound
}
