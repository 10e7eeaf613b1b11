/**
 * Initial values of parameters, as in PEFT: A uniform in [-1/sqrt(d_in), 1/sqrt(d_in)), the router uniform in
 * [-1/sqrt(r), 1/sqrt(r)) (torch.nn.init.kaiming_uniform_ with a = sqrt(5)), B zero.
 */
import { uniformFloat32 } from 'pure-rand/distribution/uniformFloat32'
import { mersenne } from 'pure-rand/generator/mersenne'
import type { DType } from '../base/dtype.js'
import { allocateOnHost } from '../memory/allocate.js'
import { fromFloat32 } from '../tensor/numbers.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { ParameterShape } from './layout.js'

/**
 * Initial values by parameter name. They equal those of PyTorch's CPU generator: `torch.manual_seed(seed)`, then
 * `torch.empty(shape).uniform_(-bound, bound)` for one parameter after the other, in the order given. For each element,
 * row by row, that takes the low 24 bits of one output of MT19937 as a number in [0, 1).
 *
 * @param drawB whether B is random too, uniform in [-1/sqrt(d_out), 1/sqrt(d_out))
 */
export function initialValues(
  parameters: Iterable<ParameterShape>,
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

/** draw * width - bound is exact in float64 and so rounded once, to float32, like the fused multiply-add of PyTorch. */
function drawUniform(numbers: Float32Array, bound: number, draw: () => number): void {
  const width = Math.fround(2 * bound)
  for (let i = 0; i < numbers.length; i++) numbers[i] = draw() * width - bound
}
