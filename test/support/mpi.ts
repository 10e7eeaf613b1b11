/** Starts programs of test/mpi/programs as jobs of mpirun, and collects what their ranks answer. */
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { deserialize, serialize } from 'node:v8'
import { findProgram } from './find-program.js'
import { bundle } from './fork.js'

/** A library with its launcher, by the names of Debian. */
export interface Library {
  readonly name: string
  /** What MPI_Get_library_version begins with. */
  readonly version: RegExp
  readonly launcher: string
  readonly options: readonly string[]
  /** The package of Debian that has the launcher. */
  readonly debian: string
  /** The run-time name of the library. */
  readonly file: string
  /**
   * The launcher of MPICH 4.2 ends with 0 after SIGKILL in a few of a hundred jobs on a busy machine, of C programs as well. Its
   * code says nothing then.
   */
  readonly hidesKills: boolean
}

export const LIBRARIES: readonly Library[] = [
  {
    name: 'Open MPI',
    version: /^Open MPI \d/,
    launcher: 'mpirun.openmpi',
    // Ranks of several jobs would otherwise be bound to the same processors. Shared memory is all that one machine requires;
    // in containers TCP prints warnings about their networks.
    options: ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', '--mca', 'btl', 'self,sm'],
    debian: 'openmpi-bin',
    file: 'libmpi.so.40',
    hidesKills: false,
  },
  {
    name: 'MPICH',
    version: /^MPICH \d/,
    launcher: 'mpirun.mpich',
    options: [],
    debian: 'mpich',
    file: 'libmpi.so.12',
    hidesKills: true,
  },
]

/** Why there are no jobs of this library here; undefined if there are. */
export function missingLibrary(name: string): string | undefined {
  const { launcher, debian } = LIBRARIES.find((library) => library.name === name)!
  return findProgram(launcher) === undefined ? `no ${launcher} (Debian: apt install ${debian})` : undefined
}

/** For `describe.for`; each test begins with {@link skipWithout}. */
export const libraries = LIBRARIES.map((library) => ({ library, name: library.name }))

/** The function of the context of a test. */
export type Skip = (condition: boolean, note?: string) => void

/** Skips a test where a library that it requires is missing. */
export function skipWithout(skip: Skip, ...needed: readonly Library[]): void {
  for (const { name } of needed) {
    const missing = missingLibrary(name)
    skip(missing !== undefined, missing)
  }
}

export interface JobOptions {
  /** What `input()` in the program returns. */
  readonly input?: unknown
  readonly env?: Readonly<Record<string, string>>
  /** After this time the job is killed, and counts as one that hangs. */
  readonly limit?: number
  /** Null: the program runs without a launcher, as a world of one. */
  readonly library: Library | null
  readonly ranks?: number
  /** A program of the package's users, which imports dist/ by name, in place of the file of `programs/`. */
  readonly command?: readonly string[]
}

export interface Ended {
  /** The exit code of the launcher, 128 + n after signal n; null: the job was killed because it hung. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  /** By rank. A rank that did not answer is missing. */
  readonly answers: ReadonlyMap<number, unknown>
  /** The command lines of processes of the job that were left when its launcher had ended. */
  readonly left: readonly string[]
}

const SIGNALS = { SIGKILL: 9, SIGTERM: 15, SIGABRT: 6, SIGSEGV: 11 } as Readonly<Record<string, number>>
/** The variable of the environment by which the processes of a job are found. */
const FOLDER = 'LILY_TEST_FOLDER'

/** The processes that have inherited the folder of a job, but for those that only wait for their parent to notice the end. */
function processesOf(folder: string): { pid: number; command: string }[] {
  const variable = `${FOLDER}=${folder}`
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return []
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(variable)) return []
      const command = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').join(' ')
      return command === '' ? [] : [{ pid: Number(pid), command }]
    } catch {
      return [] // it has ended, or belongs to another user
    }
  })
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits for the processes of a job, which the launcher kills before it ends; returns those that remain. */
async function leftOf(folder: string): Promise<string[]> {
  for (let i = 0; i < 20; i++) {
    if (processesOf(folder).length === 0) return []
    await sleep(100)
  }
  const left = processesOf(folder)
  for (const { pid } of left) kill(pid)
  return left.map(({ command }) => command)
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}

/** Runs programs/`name`.ts on n ranks. */
export async function runJob(name: string, options: JobOptions): Promise<Ended> {
  const { library, ranks = 1, input, env = {}, limit = 60_000 } = options
  const folder = mkdtempSync(join(tmpdir(), 'lily-mpi-'))
  try {
    writeFileSync(join(folder, 'input'), serialize(input))
    const program = options.command ?? [programPath(name)]
    const command = [process.execPath, ...program]
    const [file, ...args] =
      library === null ? command : [library.launcher, ...library.options, '-n', String(ranks), ...command]
    const child = spawn(file, args, {
      env: { ...process.env, LILY_NUM_THREADS: '1', ...env, [FOLDER]: folder },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    let isHung = false
    const timer = setTimeout(() => {
      isHung = true
      for (const { pid } of processesOf(folder)) kill(pid)
      // A process that the job has started with another environment may hold the pipes.
      child.stdout.destroy()
      child.stderr.destroy()
    }, limit)
    const ended = await new Promise<number>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, signal) => resolve(code ?? 128 + (SIGNALS[signal!] ?? 0)))
    })
    clearTimeout(timer)
    const left = await leftOf(folder)
    return { code: isHung ? null : ended, stdout, stderr, answers: answersIn(folder), left }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The program as one file, for `node`. */
export function programPath(name: string): string {
  return bundle(fileURLToPath(new URL(`../mpi/programs/${name}.ts`, import.meta.url)), `mpi-${name}`)
}

function answersIn(folder: string): Map<number, unknown> {
  const files = readdirSync(folder).filter((file) => /^answer\.\d+$/.test(file))
  const answers = files.map((file): [number, unknown] => [
    Number(file.slice('answer.'.length)),
    deserialize(readFileSync(join(folder, file))),
  ])
  return new Map(answers.sort(([a], [b]) => a - b))
}

/** The answers of a job that ends well, by rank. */
export async function answersOf<T>(name: string, options: JobOptions): Promise<T[]> {
  const { code, stdout, stderr, answers, left } = await runJob(name, options)
  const { library, ranks = 1 } = options
  const what = `${name} on ${ranks} ranks of ${library?.name ?? 'no library'}`
  if (code !== 0 || answers.size !== ranks) {
    const end = code === null ? 'hung' : `ended with code ${code}`
    throw new Error(`${what} ${end} after ${answers.size} answers:\n${stdout}\n${stderr}`)
  }
  if (left.length > 0) throw new Error(`${what} left ${left.join(', ')}`)
  return [...answers.values()] as T[]
}

/** Runs at most `limit` of the functions at once. */
export function inTurn(limit: number): <T>(run: () => Promise<T>) => Promise<T> {
  let free = limit
  const waiting: (() => void)[] = []
  return async (run) => {
    if (free > 0) free--
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await run()
    } finally {
      const next = waiting.shift()
      if (next === undefined) free++
      else next()
    }
  }
}
