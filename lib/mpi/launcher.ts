/** What the program that started this process tells it: whether it is one of several ranks, and which implementation it expects. */

/** The environment of a process. */
export type Environment = Readonly<Record<string, string | undefined>>

/** A launcher, such as mpirun or srun. */
export interface Launcher {
  /** Whose protocol it speaks. */
  readonly implementation: 'Open MPI' | 'MPICH'
  readonly rank: string
  /** Null: it does not announce the number of ranks. */
  readonly size: number | null
}

/**
 * Recognises the launcher by the variables of PMIx, which Open MPI uses, and of PMI, which MPICH and its derivatives use.
 *
 * @returns null if no launcher has started this process
 */
export function launcherOf(environment: Environment): Launcher | null {
  const { PMIX_RANK, PMI_RANK, PMI_SIZE, OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE } = environment
  const ofOpenMpi = OMPI_COMM_WORLD_RANK ?? PMIX_RANK
  if (ofOpenMpi !== undefined) {
    return { implementation: 'Open MPI', rank: ofOpenMpi, size: readSize(OMPI_COMM_WORLD_SIZE) }
  }
  if (PMI_RANK === undefined) return null
  return { implementation: 'MPICH', rank: PMI_RANK, size: readSize(PMI_SIZE) }
}

function readSize(text: string | undefined): number | null {
  return text !== undefined && /^[1-9]\d*$/.test(text) ? Number(text) : null
}

/**
 * The number of tasks of a job step of Slurm, each of which would be a world of one: srun has started several without the protocol
 * of a launcher.
 *
 * @returns null if srun has started one, or none. A batch script is no task of a step
 */
export function tasksWithoutLauncher(environment: Environment): number | null {
  const { SLURM_STEP_NUM_TASKS } = environment
  const tasks = launcherOf(environment) === null ? readSize(SLURM_STEP_NUM_TASKS) : null
  return tasks === 1 ? null : tasks
}
