/**
 * A rank that fails: at each phase the job ends, with a code that is not 0, and leaves no process.
 *
 * @long
 */
import { describe, expect, test } from 'vitest'
import { type Ended, inTurn, libraries, type Library, skipWithout, runJob } from '../support/mpi.js'
import type { Fault, Input } from './programs/faults.js'

/** In the order of the program. */
const OPERATIONS = ['init', 'broadcast', 'averageGradients', 'barrier', 'finalize'] as const
const PHASES = OPERATIONS.flatMap((operation) =>
  (['before', 'in'] as const).map((when) => ({ operation, when, name: `${when} ${operation}` })),
)

/** Faults that no launcher notices: the other rank waits until its time is over. */
const UNNOTICED = ['stop', 'hang']
/** Faults that the rank itself notices at its end, where one operation is as another, but for the first and the last one. */
const NOTICED = ['exit 0', 'exit 3', 'end', 'throw', 'reject']
/** Longer than the start of ranks on a machine with other work, so that only the victim is missing. */
const TIMEOUT = 6000
/** What nothing that ends for another reason waits for. */
const NEVER = 600_000
/** Waiting jobs take no time of a processor. */
const inTurnWaiting = inTurn(10)
const inTurnEnding = inTurn(3)

interface Job extends Omit<Input, 'timeout'> {
  readonly name: string
}

function jobsOf(fault: Fault): Job[] {
  // finalize() ends without the thread of JavaScript, and then this process is on its own: one that is stopped after
  // MPI_Finalize is a process for which only mpirun waits.
  const isOver = (name: string) => name === 'in finalize' && ['hang', 'end', 'stop'].includes(fault)
  const isAsOthers = ({ operation }: Pick<Job, 'operation'>) =>
    NOTICED.includes(fault) && ['broadcast', 'barrier'].includes(operation)
  return PHASES.filter((phase) => !isOver(phase.name) && !isAsOthers(phase)).map((phase, i) => ({
    ...phase,
    fault,
    // Both ranks fail at every operation, one before and the other in it.
    victim: (i + Math.floor(i / 2)) % 2,
  }))
}

const waitsIn = (operation: string) => (rank: number, victim: number) =>
  `rank ${rank} of 2 waited ${TIMEOUT / 1000} s in ${operation}\\(\\) for rank ${victim}, which (did not come|did not answer)`

/** What a rank says that has waited for the victim. MPI_Init_thread and MPI_Finalize do not say for whom they wait. */
const WAITS: Readonly<Record<Input['operation'], (rank: number, victim: number) => string>> = {
  init: () => 'MPI_Init_thread .* did not return',
  broadcast: waitsIn('broadcast'),
  averageGradients: waitsIn('averageGradients'),
  barrier: waitsIn('barrier'),
  finalize: (rank, victim) => `${waitsIn('finalize')(rank, victim)}|MPI_Finalize .* did not return`,
}

/** What the fault of a job should leave in stderr. */
function expectedText({ fault, operation, when, victim }: Job): RegExp[] {
  if (fault === 'throw') return [new RegExp(`rank ${victim} throws this`)]
  if (fault === 'reject') return [new RegExp(`rank ${victim} rejects with this`)]
  if (fault.startsWith('exit') || fault === 'end') {
    // A process that has not called init() is none of this package's.
    if (operation === 'init' && when === 'before') return []
    return [new RegExp(`rank ${victim}.*exit.*code.*finalize\\(\\)`)]
  }
  if (fault === 'kill') return []
  const at = OPERATIONS.indexOf(operation)
  // What the victim has sent before it stops, and what the thread of MPI goes on to do in a rank that hangs, may be all that
  // the other rank requires: it then waits in the next operation.
  const waits = when === 'before' ? [operation] : OPERATIONS.slice(at, at + 2)
  return [new RegExp(waits.map((name) => WAITS[name](1 - victim, victim)).join('|'))]
}

function problemsOf(library: Library, job: Job, { code, stderr, left }: Ended): string[] {
  const mayBeZero = job.fault === 'kill' && library.hidesKills
  const problems = expectedText(job).flatMap((text) => (text.test(stderr) ? [] : [`expected ${text} in ${stderr}`]))
  if (code === null) problems.push(`hung: ${stderr}`)
  if (code === 0 && !mayBeZero) problems.push('ended with code 0')
  if (job.fault === 'exit 3' && job.name !== 'before init' && code !== 3) problems.push(`ended with code ${code}`)
  return [...problems, ...left.map((command) => `left ${command}`)]
}

describe.for(libraries)('with $name', ({ library }) => {
  test.concurrent.for(['kill', 'exit 0', 'exit 3', 'end', 'throw', 'reject', 'stop', 'hang'] as const)(
    'a rank that fails by: %s',
    async (fault, { skip }) => {
      skipWithout(skip, library)
      const found = await Promise.all(
        jobsOf(fault).map((job) => {
          const isUnnoticed = UNNOTICED.includes(fault) || (job.operation === 'init' && fault !== 'kill')
          const input: Input = { ...job, timeout: isUnnoticed ? TIMEOUT : NEVER }
          const turn = isUnnoticed ? inTurnWaiting : inTurnEnding
          return turn(async () => ({ job, ended: await runJob('faults', { library, ranks: 2, input, limit: 60_000 }) }))
        }),
      )
      const problems = found.map(({ job, ended }) => [job.name, problemsOf(library, job, ended)])
      expect(problems).toEqual(found.map(({ job }) => [job.name, []]))
    },
  )
})
