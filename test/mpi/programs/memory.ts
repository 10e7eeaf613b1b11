/** Whether the addon keeps the arrays of a call until it is over, and no longer; and memory that the caller takes away. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as mpi from 'lily-kernels/mpi'
import { native } from '../../../lib/binding/native.js'
import { dtype } from '../../../lib/binding/slots.js'
import { tensor } from '../../../lib/index.js'
import { answer, mark, marked, refusalOf, type Refusal, sleep } from './rank.js'

export interface Answer {
  /** How many of the arrays exist while their calls wait for the other rank, and once these are over. */
  readonly pending: number
  readonly over: number
  /** Rank 0 transfers a value while it is sent, rank 1 a gradient while it is averaged. */
  readonly broadcast: Refusal | null
  readonly average: Refusal | null
  /** Rank 1 transfers a gradient before it is read. */
  readonly before: Refusal | null
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
const over = await count()

/** What owns the memory that was transferred: MPI still has its address. */
const owners: ArrayBuffer[] = []
const take = ({ buffer }: ArrayBufferView) =>
  owners.push(structuredClone(buffer as ArrayBuffer, { transfer: [buffer as ArrayBuffer] }))

/** Calls an operation, during which `taker` loses an array. The other rank comes once that is gone. */
async function lose(
  taker: number,
  name: string,
  array: ArrayBufferView,
  call: () => Promise<void>,
): Promise<Refusal | null> {
  if (rank !== taker) {
    await marked(name)
    return refusalOf(call)
  }
  const refused = refusalOf(call)
  await sleep(50)
  take(array)
  mark(name)
  return refused
}

const newParameters = () => {
  const [value, grad] = [new Float32Array(8), new Float32Array(8)]
  return { value, grad, map: new Map([['a', { value: tensor(value, [8]), grad: tensor(grad, [8]) }]]) }
}
const sent = newParameters()
const broadcast = await lose(0, 'value', sent.value, () => mpi.broadcast(sent.map))
const averaged = newParameters()
const average = await lose(1, 'gradient', averaged.grad, () => mpi.averageGradients(averaged.map))

const { map, grad } = newParameters()
const refused = refusalOf(() => mpi.averageGradients(map))
if (rank === 1) take(grad)
const before = await refused
if (rank === 1) await refusalOf(() => mpi.barrier())

const result: Answer = { pending, over, broadcast, average, before }
answer(rank, result)
await mpi.finalize()
