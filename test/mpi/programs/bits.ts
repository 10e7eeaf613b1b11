/** Averages arrays, on the device of the input. */
import * as mpi from 'lily-kernels/mpi'
import { type Device, tensor, type TrainableParameter } from '../../../lib/index.js'
import { CALLS, gradientsOf, weightOf } from '../../support/mpi-arrays.js'
import type { Averages } from '../../support/mpi-average.js'
import { answer, bytesOf, input } from './rank.js'

export interface Input {
  readonly calls: readonly string[]
  readonly device?: Device['type']
}

const { calls, device = 'cpu' } = input<Input>()
const { rank } = await mpi.init()
const results = new Map<string, { gradients: Uint8Array[]; values: Uint8Array[] }>()
for (const call of CALLS.filter(({ name }) => calls.includes(name))) {
  const gradients = gradientsOf(call, rank)
  const parameters = new Map<string, TrainableParameter>()
  for (const [i, { dtype, length, valueDtype = dtype }] of call.arrays.entries()) {
    const value = new (valueDtype === 'float32' ? Float32Array : Uint16Array)(length).fill(rank + 1)
    parameters.set(`parameter ${i}`, {
      value: tensor(value, [length], valueDtype).to({ type: device }),
      grad: tensor(gradients[i], [length], dtype).to({ type: device }),
    })
  }
  await mpi.averageGradients(parameters, { weight: weightOf(call, rank), bucketBytes: call.bucketBytes })
  const result: { gradients: Uint8Array[]; values: Uint8Array[] } = { gradients: [], values: [] }
  for (const { value, grad } of parameters.values()) {
    result.gradients.push(await bytesOf(grad))
    result.values.push(await bytesOf(value))
  }
  results.set(call.name, result)
}
answer(rank, results satisfies Averages)
await mpi.finalize()
