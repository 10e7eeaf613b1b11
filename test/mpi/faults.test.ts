/**
 * A rank that fails: at each phase the job ends, with a code that is not 0, and leaves no process.
 *
 * @long
 */
import { describe, expect, test } from 'vitest'
import { type Ended, inTurn, libraries, skipWithout, runJob } from '../support/mpi.js'
import type { Fault, Input } from './programs/faults.js'

/** The programs of faults and of these jobs would be in the way of each other if this were a value of the program's file. */
const OPERATIONS = ['init', 'broadcast', 'averageGradients', 'barrier', 'finalize'] as const
const PHASES = OPERATIONS.flatMap((operation) =>
  (['before', 'in'] as const).map((when) => ({ operation, when, name: `${when} ${operation}` })),
)

/** Faults that no launcher notices: the other rank waits until its time is over. */
const UNNOTICED = ['stop', 'hang']
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
  return PHASES.filter(({ name }) => !(fault === 'hang' && name === 'in finalize')).map((phase, i) => ({
    ...phase,
    fault,
    // Both ranks fail at every operation, one before and the other in it.
    victim: (i + Math.floor(i / 2)) % 2,
  }))
}

/** What the fault of a job should leave in stderr. */
function expectedText({ fault, operation, when, victim }: Job): RegExp[] {
  const other = 1 - victim
  if (fault === 'throw') return [new RegExp(`rank ${victim} throws this`)]
  if (fault === 'reject') return [new RegExp(`rank ${victim} rejects with this`)]
  if (fault.startsWith('exit') || fault === 'end') {
    // A process that has not called init() is none of this package's.
    if (operation === 'init' && when === 'before') return []
    return [new RegExp(`rank ${victim}.*exit.*code.*finalize\\(\\)`)]
  }
  if (fault === 'kill') return []
  // The thread of MPI goes on in a rank that hangs, so the other rank waits in the next operation.
  const at = OPERATIONS.indexOf(operation) + (fault === 'hang' && when === 'in' ? 1 : 0)
  const waits = OPERATIONS[at]
  if (waits === 'init') return [new RegExp(`rank ${other} .*init\\(\\)`)]
  return [
    new RegExp(
      `rank ${other} of 2 waited ${TIMEOUT / 1000} s in ${waits}\\(\\) for rank ${victim}, which did not come; the job is aborted`,
    ),
  ]
}

function problemsOf(job: Job, { code, stderr, left }: Ended): string[] {
  const problems = expectedText(job).flatMap((text) => (text.test(stderr) ? [] : [`expected ${text} in ${stderr}`]))
  if (code === null) problems.push(`hung: ${stderr}`)
  if (code === 0) problems.push('ended with code 0')
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
      const problems = found.map(({ job, ended }) => [job.name, problemsOf(job, ended)])
      expect(problems).toEqual(found.map(({ job }) => [job.name, []]))
    },
  )
})
