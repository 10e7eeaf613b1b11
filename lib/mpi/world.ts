/** The ranks of a job: its start and its end, and the order of operations. */
import { countOf, LilyError } from '../base/errors.js'
import { checkCount, type Known, readProperties } from '../base/options.js'
import { bound, settled } from '../binding/errors.js'
import type { NativeMpi } from '../binding/native.js'
import { agreed } from './comparison.js'
import { abortAtExit } from './exits.js'
import { type Launcher, launcherOf, tasksWithoutLauncher } from './launcher.js'
import { openLibrary, unavailable } from './library.js'

/** Options of {@link init}. */
export interface InitOptions {
  /**
   * How long an operation waits for other ranks, in milliseconds, before it aborts the job: an integer from 1 to 2^31 - 1. All
   * ranks pass the same. Default 600000, 10 minutes.
   */
  readonly timeout?: number | undefined
}

/** The ranks of a job, and the place of this process among them. */
export interface World {
  /** Number of this process, from 0. */
  readonly rank: number
  /** Number of processes. */
  readonly size: number
  /** Name and version of the MPI library, such as 'Open MPI 5.0.7'; null if no launcher has started this process. */
  readonly library: string | null
}

/** A world whose ranks are connected. */
export interface Connected {
  readonly world: World
  /** Null: nothing is exchanged, because there is one rank. */
  readonly mpi: NativeMpi | null
}

const OPTIONS: Known = new Set<keyof InitOptions>(['timeout'])
const TIMEOUT = 600_000
const FINALIZE = 'finalize()'

interface Start {
  readonly timeout: number
  readonly connected: Promise<Connected>
  /** Disconnects from the other ranks, after all operations. */
  readonly end: () => Promise<void>
}

let start: Start | null = null
let finalized: Promise<void> | null = null
/** The last operation. It does not reject. */
let last: Promise<unknown> = Promise.resolve()

/**
 * Connects this process with the other ranks of its job. A process that no launcher, such as mpirun, has started is a world of
 * one: nothing is opened, and the other functions check their arguments and do nothing else. A second call gives the same world.
 *
 * From here on the job is aborted if a rank ends, or throws an error that nothing catches, without {@link finalize}.
 *
 * @returns the rank of this process and the number of ranks
 * @throws LilyError (as a rejection) ERR_LILY_BACKEND_UNAVAILABLE if the job has no usable MPI library; ERR_LILY_ARGUMENT, also
 *   for another timeout than that of an earlier call, in a second thread of the process, and after finalize
 * @example
 * const { rank, size } = await mpi.init()
 */
export async function init(options: InitOptions = {}): Promise<World> {
  const timeout = readProperties('options', options, OPTIONS, ({ timeout: given }) =>
    given === undefined ? null : checkCount('timeout', given, 1, 2 ** 31 - 1),
  )
  refuseFinalized('init()')
  if (start === null) start = connect(timeout ?? TIMEOUT)
  else if (timeout !== null && timeout !== start.timeout) {
    throw new LilyError(
      'ERR_LILY_ARGUMENT',
      `timeout: expected ${start.timeout}, as in the first call of init(), got ${timeout}; call init() once`,
      { argument: 'timeout' },
    )
  }
  return (await start.connected).world
}

/**
 * Ends the use of MPI, after all earlier operations, once all ranks have called it. A process that has called {@link init}
 * awaits this before it ends; it cannot call {@link init} again. A second call does nothing.
 *
 * Do not call it in `finally`: a rank that has thrown an error would wait here for the others, and hide the error.
 *
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT before init, or if other ranks call another operation
 * @example
 * if (rank === 0) await model.savePretrained(folder, { optimiser })
 * await mpi.finalize()
 */
export async function finalize(): Promise<void> {
  const { end } = started(FINALIZE)
  finalized ??= enqueue(FINALIZE, end)
  try {
    await finalized
  } catch (cause) {
    finalized = null // the ranks still differ, and are connected
    throw cause
  }
}

/**
 * Runs an operation after all earlier ones.
 *
 * @param label the operation in errors, such as 'barrier()'
 * @throws LilyError ERR_LILY_ARGUMENT before init and after finalize
 */
export function enqueue<T>(label: string, work: (connected: Connected) => Promise<T>): Promise<T> {
  refuseFinalized(label)
  const { connected } = started(label)
  const result = last.then(async () => work(await connected))
  last = result.catch(() => undefined)
  return result
}

function connect(timeout: number): Start {
  const launcher = launcherOf(process.env)
  if (launcher === null) {
    const connected = Promise.resolve().then(worldOfOne)
    return { timeout, connected, end: () => connected.then(() => undefined) }
  }
  const job = joinJob(launcher, timeout)
  const connected = job.then(({ mpi, world }) => ({ world, mpi: world.size === 1 ? null : mpi }))
  const end = async () => {
    const { mpi, allowExit } = await job
    await agreed(mpi, { operation: FINALIZE }, (key) => mpi.finalize(FINALIZE, key))
    allowExit()
  }
  return { timeout, connected, end }
}

function worldOfOne(): Connected {
  const tasks = tasksWithoutLauncher(process.env)
  if (tasks === null) return { world: Object.freeze({ rank: 0, size: 1, library: null }), mpi: null }
  throw unavailable(
    `srun has started ${tasks} tasks, and none of MPI; start the job with srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), or ` +
      'unset SLURM_STEP_NUM_TASKS if each task trains a model of its own',
  )
}

async function joinJob(launcher: Launcher, timeout: number) {
  const { mpi, library, file } = openLibrary(launcher)
  let name = nameOf(launcher.rank, launcher.size)
  // Where it is refused because another thread of this process is a rank, this one may end as it likes.
  const initialised = bound(() => mpi.init(timeout))
  const allowExit = abortAtExit(mpi, () => name)
  const { rank, size } = await settled(initialised)
  if (launcher.size !== null && size !== launcher.size) {
    throw unavailable(
      `${library} (${file}) has ${countOf(size, 'rank')}, but the launcher of ${launcher.implementation} has started ` +
        `${launcher.size}; start the job with the mpirun of ${library}, or set LILY_MPI_LIBRARY to the library of the launcher`,
    )
  }
  name = nameOf(rank, size)
  return { mpi, world: Object.freeze({ rank, size, library }), allowExit }
}

function nameOf(rank: number | string, size: number | null): string {
  return size === null ? `rank ${rank}` : `rank ${rank} of ${size}`
}

function started(label: string): Start {
  if (start !== null) return start
  throw new LilyError('ERR_LILY_ARGUMENT', `${label}: expected a process that is connected; await init() first`)
}

function refuseFinalized(label: string): void {
  if (finalized === null) return
  throw new LilyError(
    'ERR_LILY_ARGUMENT',
    `${label}: is not possible after finalize(); call finalize() at the end of the program`,
  )
}
