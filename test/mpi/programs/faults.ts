/** A job in which one rank fails, at the phase of the input. */
import * as mpi from 'lily-kernels/mpi'
import { tensor } from '../../../lib/index.js'
import { announcedRank, input, mark, marked, sleep } from './rank.js'

export type Fault = 'kill' | 'stop' | 'exit 0' | 'exit 3' | 'end' | 'throw' | 'reject' | 'hang'
/** In this order. */
const OPERATIONS = ['init', 'broadcast', 'averageGradients', 'barrier', 'finalize'] as const

export interface Input {
  readonly fault: Fault
  readonly operation: (typeof OPERATIONS)[number]
  /** Whether the rank fails before it calls the operation, or while it waits there for the other ones. */
  readonly when: 'before' | 'in'
  readonly victim: number
  readonly timeout: number
}

const { fault, operation, when, victim, timeout } = input() as Input
const parameters = new Map([['a', { value: tensor([1, 2], [2]), grad: tensor([3, 4], [2]) }]])
const operations: Record<(typeof OPERATIONS)[number], () => Promise<unknown>> = {
  init: () => mpi.init({ timeout }),
  broadcast: () => mpi.broadcast(parameters),
  averageGradients: () => mpi.averageGradients(parameters),
  barrier: () => mpi.barrier(),
  finalize: () => mpi.finalize(),
}

/** Fails. After 'end' there is nothing that keeps the process alive. */
async function fail(): Promise<never> {
  mark('failing')
  const faults: Record<Fault, () => unknown> = {
    kill: () => process.kill(process.pid, 'SIGKILL'),
    stop: () => process.kill(process.pid, 'SIGSTOP'),
    'exit 0': () => process.exit(0),
    'exit 3': () => process.exit(3),
    end: () => undefined,
    throw: () =>
      setImmediate(() => {
        throw new Error(`rank ${victim} throws this`)
      }),
    reject: () => Promise.reject(new Error(`rank ${victim} rejects with this`)),
    // Blocks the thread of JavaScript as an endless loop does, and leaves the processor to other tests.
    hang: () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
  }
  void faults[fault]()
  return await new Promise<never>(() => undefined)
}

for (const name of OPERATIONS) {
  if (name === operation && announcedRank === victim) {
    if (when === 'in') {
      void operations[name]()
      await sleep(200)
    }
    await fail()
  }
  // The other rank comes when the victim has failed in the operation, which would otherwise be over.
  if (name === operation && when === 'in') await marked('failing')
  await operations[name]()
}
