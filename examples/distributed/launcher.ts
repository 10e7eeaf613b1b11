/** Starts jobs with mpirun. */
import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { CommandError } from '../../report/failure.js'
import type { Job, Line } from './results.js'

/** Debian can have both installed; mpirun is one of them. */
const PROGRAMS = ['mpirun', 'mpirun.openmpi', 'mpirun.mpich']

const root = fileURLToPath(new URL('../..', import.meta.url))
const program = fileURLToPath(new URL('train.ts', import.meta.url))

export interface Launcher {
  readonly program: string
  readonly options: readonly string[]
}

/**
 * Looks for mpirun.
 *
 * @param wanted a program instead of those that are looked for
 */
export function findLauncher(wanted?: string): Launcher {
  for (const program of wanted === undefined ? PROGRAMS : [wanted]) {
    const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' })
    if (status === 0) return { program, options: stdout.includes('Open MPI') ? openMpiOptions() : [] }
  }
  throw new CommandError(
    `${wanted ?? listOfPrograms} was not found: install an MPI, on Debian openmpi-bin or mpich (on clusters ` +
      '`module load openmpi`); or start one rank without it: npx tsx examples/distributed/train.ts',
  )
}

const listOfPrograms = `none of ${PROGRAMS.join(', ')}`

/**
 * Open MPI refuses more ranks than cores, and root, and binds each rank to one core. Here the ranks share the cores by
 * LILY_NUM_THREADS.
 */
const openMpiOptions = (): string[] => [
  '--oversubscribe',
  ...['--bind-to', 'none'],
  ...(process.getuid?.() === 0 ? ['--allow-run-as-root'] : []),
]

/** A job that failed. */
export class JobError extends CommandError {
  constructor(
    message: string,
    /** What mpirun and the ranks have printed. */
    readonly messages: string,
  ) {
    super(message)
  }
}

export interface JobOptions {
  readonly ranks: number
  /** Of each rank. */
  readonly threads: number
  /** Of train.ts. */
  readonly options: readonly string[]
  readonly signal: AbortSignal
  readonly onStep: (line: Extract<Line, { step: number }>) => void
}

/**
 * Runs one job to its end.
 *
 * @throws JobError; the reason of the signal
 */
export async function runJob(
  launcher: Launcher,
  { ranks, threads, options, signal, onStep }: JobOptions,
): Promise<Job> {
  const args = [...launcher.options, '-n', String(ranks), process.execPath, '--import', 'tsx', program, '--json']
  const child = spawn(launcher.program, [...args, ...options], {
    cwd: root,
    env: { ...process.env, LILY_NUM_THREADS: String(threads) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const terminate = () => child.kill()
  signal.addEventListener('abort', terminate)
  let job: Job | undefined
  // Messages of mpirun and of ranks are kept: a bar is drawn meanwhile.
  let messages = ''
  child.stderr.on('data', (text: Buffer) => (messages += text.toString()))
  createInterface({ input: child.stdout }).on('line', (text) => {
    if (!text.startsWith('{')) {
      messages += `${text}\n`
      return
    }
    const line = JSON.parse(text) as Line
    if ('job' in line) job = line.job
    else onStep(line)
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  signal.removeEventListener('abort', terminate)
  signal.throwIfAborted()
  if (code === 0 && job !== undefined) return job
  throw new JobError(`the job of ${ranks} ranks failed with exit code ${code}; its messages are above`, messages.trim())
}
