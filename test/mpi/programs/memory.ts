/** Whether the addon keeps the arrays of a call until it is over, and no longer. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as mpi from 'lily-kernels/mpi'
import { native } from '../../../lib/binding/native.js'
import { dtype } from '../../../lib/binding/slots.js'
import { answer, mark, marked, sleep } from './rank.js'

export interface Answer {
  /** How many of the arrays exist while their calls wait for the other rank, and once these are over. */
  readonly pending: number
  readonly over: number
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

const { rank } = await mpi.init()
const addon = native.mpi!
const refs: WeakRef<Float32Array>[] = []

function newArray(): Float32Array {
  const array = new Float32Array(1000)
  refs.push(new WeakRef(array))
  return array
}

async function count(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    await sleep(1)
    collect()
  }
  return refs.filter((ref) => ref.deref() !== undefined).length
}

function start(): Promise<unknown> {
  return Promise.all([
    addon.broadcast('a', 'a', [newArray(), newArray()]),
    addon.reduce('b', 'b', [newArray()], [dtype.float32], 1, 4),
  ])
}

if (rank === 0) await marked('counted')
const calls = start()
const pending = await count()
mark('counted')
await calls
const result: Answer = { pending, over: await count() }
answer(rank, result)
await mpi.finalize()
