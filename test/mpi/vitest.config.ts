import { existsSync } from 'node:fs'
import { missingLibrary } from '../support/mpi.js'
import { path, project } from '../support/project.js'

/** Jobs of Open MPI and of MPICH on this machine. With one of the two, the tests of the other one are skipped. */
export default project('mpi', {
  needs: () => {
    if (process.platform !== 'linux') return 'mpirun.openmpi and mpirun.mpich are the names of Debian'
    if (!existsSync(path('build/Release/lily.node'))) return 'the addon is not built; run npm run build:native'
    const missing = ['Open MPI', 'MPICH'].map((name) => missingLibrary(name))
    return missing.every((reason) => reason !== undefined) ? missing.join(', ') : {}
  },
})
