/** The MPI library that lily-kernels/mpi opens here. */
import { launcherOf } from '../../lib/mpi/launcher.js'
import { openLibrary } from '../../lib/mpi/library.js'
import type { Diagnosis } from './diagnosis.js'

/** Opens the library, and starts nothing of it. */
export function mpiLibrary(): NonNullable<Diagnosis['mpi']> {
  try {
    const { library, file } = openLibrary(launcherOf(process.env))
    return { available: true, library, file }
  } catch (error) {
    return { available: false, reason: error instanceof Error ? error.message : String(error) }
  }
}
