/** The libraries of MPI, and the commands of the jobs of two ranks. */
import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { PeerCommand } from '../peers/peer-process.js'

/** A library with the names that Debian gives to its launcher and its compiler, side by side with others. */
export interface Library {
  readonly name: string
  readonly mpirun: string
  readonly mpicc: string
  readonly install: string
}

export const libraries: readonly Library[] = [
  {
    name: 'Open MPI',
    mpirun: 'mpirun.openmpi',
    mpicc: 'mpicc.openmpi',
    install: 'apt-get install openmpi-bin libopenmpi-dev',
  },
  { name: 'MPICH', mpirun: 'mpirun.mpich', mpicc: 'mpicc.mpich', install: 'apt-get install mpich libmpich-dev' },
]

export const RANKS = 2

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))

/** The commands of a library that are not installed. */
export function missingCommands({ mpirun, mpicc }: Library): string[] {
  return [mpirun, mpicc].filter((command) => spawnSync(command, ['--version']).error !== undefined)
}

/** Open MPI counts cores (a virtual machine may have only one), and has no other way to run as root, as in a container. */
function mpirunOptions({ name }: Library): string[] {
  const isRoot = process.getuid?.() === 0
  return name === 'Open MPI' ? ['--oversubscribe', ...(isRoot ? ['--allow-run-as-root'] : [])] : []
}

const launch = (library: Library, ...program: string[]): PeerCommand => ({
  command: library.mpirun,
  args: [...mpirunOptions(library), '-n', String(RANKS), ...program],
  env: process.env,
})

/** Compiles allreduce.c into a folder. */
export function jobOfC(library: Library, folder: string): PeerCommand {
  const program = join(folder, library.mpicc)
  execFileSync(library.mpicc, ['-O3', '-march=native', '-o', program, path('allreduce.c')], { stdio: 'inherit' })
  return launch(library, program)
}

export const jobOfOurs = (library: Library): PeerCommand =>
  launch(library, process.execPath, '--import', 'tsx', path('rank.ts'))
