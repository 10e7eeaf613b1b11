/** Whether the addon keeps the arrays of a call until it is over, and no longer; and memory that the caller takes away. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import * as mpi from 'lily-kernels/mpi'
import { native } from '../../../lib/binding/native.js'
import { dtype } from '../../../lib/binding/slots.js'
import { tensor, type TrainableParameter } from '../../../lib/index.js'
import { answer, mark, marked, refusalOf, type Refusal, sleep } from './rank.js'

export interface Answer {
  /** How many of the arrays exist while their calls wait for the other rank, and once these are over. */
  readonly pending: number
  readonly over: number
  /** Rank 0 transfers a value while it is sent, rank 1 one that is received. */
  readonly sent: Refusal | null
  readonly received: Refusal | null
  /** Rank 1 transfers a gradient while it is averaged, or disposes of it. */
  readonly average: Refusal | null
  readonly disposed: Refusal | null
  /** Gradients of one parameter, of several memories, after one call with each. */
  readonly repeated: readonly number[][]
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

/** Transfers the memory of an array, and frees it. */
async function take({ buffer }: ArrayBufferView): Promise<void> {
  structuredClone(buffer as ArrayBuffer, { transfer: [buffer as ArrayBuffer] })
  await sleep(1)
  collect()
}

/** Calls an operation, during which `taker` loses an array. The other rank comes once that is gone. */
async function lose(
  taker: number,
  name: string,
  taking: () => unknown,
  call: () => Promise<void>,
): Promise<Refusal | null> {
  if (rank !== taker) {
    await marked(name)
    return refusalOf(call)
  }
  const refused = refusalOf(call)
  await sleep(50)
  await taking()
  mark(name)
  return refused
}

/** Of a size whose memory is unmapped when it is freed. */
const SIZE = 2 ** 20
const newParameters = () => {
  const [value, grad] = [new Float32Array(SIZE), new Float32Array(SIZE)]
  return { value, grad, map: new Map([['a', { value: tensor(value, [SIZE]), grad: tensor(grad, [SIZE]) }]]) }
}
const broadcast = async (taker: number, name: string) => {
  const { value, map } = newParameters()
  return lose(
    taker,
    name,
    () => take(value),
    () => mpi.broadcast(map),
  )
}
const sent = await broadcast(0, 'sent')
const received = await broadcast(1, 'received')
const averaging = async (name: string, taking: (parameters: ReturnType<typeof newParameters>) => unknown) => {
  const parameters = newParameters()
  return lose(
    1,
    name,
    () => taking(parameters),
    () => mpi.averageGradients(parameters.map),
  )
}
const average = await averaging('gradient', ({ grad }) => take(grad))
const disposed = await averaging('disposed', ({ map }) => map.get('a')?.grad.dispose())

const grads = [16, 16, new SharedArrayBuffer(16), 16].map((buffer, i) => {
  return new Float32Array(typeof buffer === 'number' ? new ArrayBuffer(buffer) : buffer).fill(2 * rank + i)
})
const trained = new Map<string, TrainableParameter>()
for (const grad of grads) {
  trained.set('a', { value: { data: new Float32Array(4), shape: [4] }, grad: { data: grad, shape: [4] } })
  await mpi.averageGradients(trained)
}
const repeated = grads.map((grad) => Array.from(grad))

const { map, grad } = newParameters()
const refused = refusalOf(() => mpi.averageGradients(map))
if (rank === 1) await take(grad)
const before = await refused
if (rank === 1) await refusalOf(() => mpi.barrier())

const result: Answer = { pending, over, sent, received, average, disposed, repeated, before }
answer(rank, result)
await mpi.finalize()
