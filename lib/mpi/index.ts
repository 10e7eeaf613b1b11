/**
 * Data parallelism over MPI: one program, which mpirun starts n times, trains one model. Each process, a rank, computes the
 * gradients of its share of the batch; {@link averageGradients} gives all of them the average. docs/distributed.md is the guide.
 *
 * @example
 * import * as mpi from 'lily-kernels/mpi'
 * const { rank, size } = await mpi.init()
 * await mpi.broadcast(model)
 * const optimiser = new AdamW(model.parameters(), { lr: 1e-3, maxNorm: 1, distributed: mpi })
 * // forward and backward of this rank's share
 * await optimiser.step({ weight: tokens })
 * if (rank === 0) await model.savePretrained(folder, { optimiser })
 * await mpi.finalize()
 *
 * @module lily-kernels/mpi
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export type { AverageOptions, Distributed } from '../optimiser/distributed.js'
export { averageGradients } from './average.js'
export { broadcast } from './broadcast.js'
export { allGather, barrier } from './gather.js'
export type { Trained } from './parameters.js'
export { finalize, init, type InitOptions, type World } from './world.js'

registerHost()
