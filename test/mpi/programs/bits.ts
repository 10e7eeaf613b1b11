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

const GUARD = 77

const { calls, device = 'cpu' } = input() as Input
const { rank } = await mpi.init()
const results = new Map<string, { gradients: Uint8Array[]; values: Uint8Array[] }>()
for (const call of CALLS.filter(({ name }) => calls.includes(name))) {
  const gradients = gradientsOf(call, rank)
  const parameters = new Map<string, TrainableParameter>()
  const guards: (Float32Array | Uint16Array)[] = []
  /** A copy between two numbers that nothing may write, at an odd address for vectors. */
  const guarded = <A extends Float32Array | Uint16Array>(values: A): A => {
    const all = new (values.constructor as new (length: number) => A)(values.length + 2).fill(GUARD)
    all.set(values, 1)
    guards.push(all.subarray(0, 1), all.subarray(-1))
    return all.subarray(1, -1) as A
  }
  for (const [i, { dtype, length, valueDtype = dtype }] of call.arrays.entries()) {
    const value = new (valueDtype === 'float32' ? Float32Array : Uint16Array)(length).fill(1)
    parameters.set(`parameter ${i}`, {
      value: tensor(value, [length], valueDtype).to({ type: device }),
      grad: tensor(guarded(gradients[i]), [length], dtype).to({ type: device }),
    })
  }
  await mpi.averageGradients(parameters, { weight: weightOf(call, rank), bucketBytes: call.bucketBytes })
  const result: { gradients: Uint8Array[]; values: Uint8Array[] } = { gradients: [], values: [] }
  for (const { value, grad } of parameters.values()) {
    result.gradients.push(await bytesOf(grad))
    result.values.push(await bytesOf(value))
  }
  if (guards.some(([guard]) => guard !== GUARD)) throw new Error(`'${call.name}' has written beside a gradient`)
  results.set(call.name, result)
}
answer(rank, results satisfies Averages)
await mpi.finalize()
