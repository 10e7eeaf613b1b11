/**
 * The programs of docs/distributed.md, alone and on two ranks of each library that is installed.
 *
 * @project mpi
 */
import { testPrograms } from '../support/guides.js'
import { LIBRARIES, missingLibrary } from '../support/mpi.js'

const installed = LIBRARIES.filter(({ name }) => missingLibrary(name) === undefined)

testPrograms('mpi', {
  node: [],
  ...Object.fromEntries(installed.map(({ name, launcher, options }) => [name, [launcher, ...options, '-n', '2']])),
})
