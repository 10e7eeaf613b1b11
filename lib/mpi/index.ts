/**
 * Data parallelism over MPI: one program, started n times by mpirun, trains one model.
 *
 * @module lily-kernels/mpi
 * @packageDocumentation
 */
import { registerHost } from '../binding/host.js'

export type { AverageOptions, Distributed } from '../optimiser/distributed.js'

registerHost()
