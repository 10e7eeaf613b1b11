/** Tensors of TensorFlow.js' WebGPU backend as operands, and results as its tensors, without a copy through the host. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Gpu, openGpu } from '../../bench/harness/gpu.js'
import { composedAdapter, type TensorFlow } from '../../bench/methods/composed/tensorflow.js'
import { filled, makeLilyParameters } from '../../bench/workload/operands.js'
import type { Tensor } from '../../lib/index.js'

const shape = { tokens: 33, d: 40, rank: 5, experts: 3 }

let gpu: Gpu
beforeAll(async () => {
  gpu = await openGpu()
})
afterAll(() => {
  gpu.close()
})

test('buffers of dataToGPU go in, and y comes out as a tensor over the same buffer', async () => {
  const { lily } = gpu
  expect(gpu.tensorFlow).toBeTypeOf('object')
  const { tf } = gpu.tensorFlow as TensorFlow
  tf.env().set('WEBGPU_CPU_FORWARD', false) // small tensors stay on the host otherwise
  const parameters = makeLilyParameters(shape, 'float32', (tensor) => tensor)
  const x = filled([shape.tokens, shape.d], 1)
  const onGpu = ({ data, shape }: Tensor) => {
    const { buffer } = tf.tensor(Float32Array.from(data), shape).mul(1).dataToGPU() as { buffer: GPUBuffer }
    return { buffer, shape, dtype: 'float32' as const }
  }
  const { a, router, b } = parameters
  const { y } = lily.lilyForward({ x: onGpu(x), a: onGpu(a), router: onGpu(router), b: onGpu(b) }, { save: false })
  // A product after it: TensorFlow.js reads the buffer in the order of the queue.
  const doubled = tf.tensor({ buffer: y.buffer, zeroCopy: true }, y.shape as [number, number], 'float32').mul(2)
  const found = await doubled.data()
  const expected = await composedAdapter(tf, shape, parameters).forward().data()
  const largest = Math.max(...expected.map(Math.abs))
  expect(largest).toBeGreaterThan(0)
  expected.forEach((value, i) => {
    expect(Math.abs(found[i] / 2 - value)).toBeLessThan(1e-5 * largest)
  })
})
