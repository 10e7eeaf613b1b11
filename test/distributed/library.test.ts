/**
 * Which launcher has started a process, and which MPI library it opens.
 *
 * @project cpu
 */
import { describe, expect, it, test } from 'vitest'
import { launcherOf, tasksWithoutLauncher } from '../../lib/mpi/launcher.js'
import { candidates, libraryName } from '../../lib/mpi/library.js'

describe('the launcher', () => {
  it.each([
    ['none', {}, null],
    // What mpirun of Open MPI 5, mpirun of MPICH 4, and srun of Slurm set.
    [
      'mpirun of Open MPI',
      { PMIX_RANK: '3', OMPI_COMM_WORLD_RANK: '3', OMPI_COMM_WORLD_SIZE: '4' },
      { implementation: 'Open MPI', rank: '3', size: 4 },
    ],
    ['mpirun of MPICH', { PMI_RANK: '1', PMI_SIZE: '2' }, { implementation: 'MPICH', rank: '1', size: 2 }],
    ['srun --mpi=pmix', { PMIX_RANK: '0', SLURM_PROCID: '0' }, { implementation: 'Open MPI', rank: '0', size: null }],
    ['srun without MPI', { SLURM_PROCID: '0' }, null],
    // A script that mpirun of MPICH starts, and that starts a job of Open MPI.
    [
      'one inside another',
      { PMI_RANK: '0', PMI_SIZE: '2', PMIX_RANK: '5', OMPI_COMM_WORLD_SIZE: '8' },
      { implementation: 'Open MPI', rank: '5', size: 8 },
    ],
    [
      'one with a size that is none',
      { PMI_RANK: '0', PMI_SIZE: 'x' },
      { implementation: 'MPICH', rank: '0', size: null },
    ],
  ])('%s', (_, environment, expected) => {
    expect(launcherOf(environment)).toEqual(expected)
  })
})

it.each([
  ['no task of Slurm', {}, null],
  ['a batch script', { SLURM_PROCID: '0' }, null],
  ['the only task', { SLURM_STEP_NUM_TASKS: '1' }, null],
  ['one of several tasks', { SLURM_STEP_NUM_TASKS: '4' }, 4],
  ['a rank of srun --mpi=pmi2', { SLURM_STEP_NUM_TASKS: '4', PMI_RANK: '0' }, null],
  ['a rank of mpirun in a task', { SLURM_STEP_NUM_TASKS: '4', PMIX_RANK: '0' }, null],
])('%s', (_, environment, expected) => {
  expect(tasksWithoutLauncher(environment)).toBe(expected)
})

describe('the libraries that are tried', () => {
  const ofMpich = launcherOf({ PMI_RANK: '0' })
  it.each([
    [
      'of the standard, of Open MPI, of MPICH',
      'linux',
      null,
      'libmpi_abi.so.0 libmpi_abi.so libmpi.so.40 libmpi.so.12',
    ],
    ['that of the launcher first', 'linux', ofMpich, 'libmpi_abi.so.0 libmpi_abi.so libmpi.so.12 libmpi.so.40'],
    ['on macOS', 'darwin', ofMpich, 'libmpi_abi.dylib libmpi.12.dylib libmpi.40.dylib'],
  ])('%s', (_, platform, launcher, expected) => {
    expect(candidates({}, platform, launcher).join(' ')).toBe(expected)
    expect(candidates({ LILY_MPI_LIBRARY: '' }, platform, launcher).join(' ')).toBe(expected)
  })

  it('LILY_MPI_LIBRARY alone', () => {
    expect(candidates({ LILY_MPI_LIBRARY: '/opt/libmpi.so' }, 'linux', ofMpich)).toEqual(['/opt/libmpi.so'])
  })
})

// The first lines that MPI_Get_library_version of these libraries gives.
test.each([
  ['Open MPI v5.0.7, package: Debian OpenMPI, ident: 5.0.7, repo rev: v5.0.7, Feb 14, 2025', 'Open MPI 5.0.7'],
  ['MPICH Version:      4.2.1', 'MPICH 4.2.1'],
  ['Intel(R) MPI Library 2021.11 for Linux* OS', 'Intel(R) MPI Library 2021.11 for Linux* OS'],
  [
    'MPI VERSION    : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)',
    'MPI VERSION    : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)',
  ],
])('the name of %s', (text, expected) => {
  expect(libraryName(text)).toBe(expected)
})
