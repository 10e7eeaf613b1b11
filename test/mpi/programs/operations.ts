/** Broadcasts, gathers and barriers. */
import { isMainThread, Worker } from 'node:worker_threads'
import * as mpi from 'lily-kernels/mpi'
import { AdamW, lilyForward, LilyModel, LoraModel, tensor, type TrainableParameter } from '../../../lib/index.js'
import { answer, bytesOfAll, refusalOf, type Refusal, sleep } from './rank.js'

export interface Answer {
  readonly world: { readonly rank: number; readonly size: number; readonly library: string | null }
  readonly broadcast: Readonly<Record<'lily' | 'lora' | 'map' | 'gradients', Map<string, Uint8Array>>>
  /** The words of the state of dropout after a broadcast. */
  readonly dropout: Int32Array
  readonly optimiser: { readonly step: number; readonly moments: Map<string, Uint8Array>[] }
  /** A backward of a forward before a broadcast. */
  readonly stale: Refusal | null
  readonly gathered: readonly unknown[][]
  readonly barrier: { readonly before: readonly number[]; readonly after: number }
  readonly inOrder: readonly unknown[][]
  readonly notAwaited: readonly number[]
  readonly noWeight: readonly (Refusal | null)[]
  readonly worker: WorkerAnswer
  /** What WebAssembly throws at an access beyond its memory, which is a signal. */
  readonly trap: string
}

/** What a worker answers, in which the job is not initialised. */
export interface WorkerAnswer {
  readonly computed: number
  readonly init: Refusal | null
}

const layers = [0, 1].map((l) => ({ name: `${l}.proj`, inFeatures: 6, outFeatures: 5 }))
const targetModules = ['proj']

/** Parameters whose numbers depend on the rank. */
function parametersOf(rank: number): Map<string, TrainableParameter> {
  const of = (first: number, length: number) => Float32Array.from({ length }, (_, i) => first + i + 100 * rank)
  const empty = new Float32Array(0)
  return new Map([
    ['float32', { value: tensor(of(0, 7), [7]), grad: tensor(of(50, 7), [7]) }],
    ['empty', { value: tensor(empty, [0]), grad: tensor(empty, [0]) }],
    ['mixed', { value: tensor(Uint16Array.from(of(3, 5)), [5], 'bfloat16'), grad: tensor(of(60, 5), [5]) }],
    ['scalar', { value: tensor(of(9, 1), [1]), grad: tensor(of(70, 1), [1]) }],
  ])
}

/** What a rank gathers: numbers, strings, and objects of other sizes on other ranks. */
const valuesOf = (rank: number): unknown[] => [
  rank + 0.5,
  rank === 0 ? NaN : -0,
  `rank ${rank} ✓`.repeat(rank + 1),
  undefined,
  { rank, list: Array.from({ length: rank * 40_000 }, (_, i) => i), nested: new Map([[rank, new Set([1])]]) },
  Float64Array.of(rank, Infinity),
]

function trapOf(): string {
  // (module (memory 1) (func (export "f") (result i32) i32.const 0x7fffffff i32.load))
  const sections = [1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 5, 1, 1, 102, 0, 0, 10, 13, 1, 11]
  const body = [0, 65, 255, 255, 255, 255, 7, 40, 2, 0, 11]
  const module = new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, ...sections, ...body))
  const { f } = new WebAssembly.Instance(module, {}).exports as { f: () => number }
  try {
    return `loaded ${f()}`
  } catch (error) {
    return String(error)
  }
}

async function main(): Promise<void> {
  const { rank, size, library } = await mpi.init()

  const lily = LilyModel.create({ layers, config: { r: 4, targetModules, initWeights: false }, seed: 10 + rank })
  const lora = LoraModel.create({ layers, config: { r: 4, targetModules }, seed: 20 + rank, dtype: 'bfloat16' })
  const map = parametersOf(rank)
  await mpi.broadcast(lily)
  await mpi.broadcast(lora)
  await mpi.broadcast(map)
  const broadcast = {
    lily: await bytesOfAll(lily.parameters(), ({ value }) => value),
    lora: await bytesOfAll(lora.parameters(), ({ value }) => value),
    map: await bytesOfAll(map, ({ value }) => value),
    gradients: await bytesOfAll(map, ({ grad }) => grad),
  }

  const dropping = LilyModel.create({ layers, config: { r: 4, targetModules, dropout: 0.1 }, seed: 30 + rank })
  if (rank === 0) dropping.dropoutState.data[2] = 5
  await mpi.broadcast(dropping)
  const dropout = (dropping.dropoutState.data as Int32Array).slice()

  const { y: dy, saved } = lily.layer('0.proj').forward({ x: tensor(new Float32Array(6), [1, 6]) })
  await mpi.broadcast(lily)
  const stale = await refusalOf(() => lily.layer('0.proj').backward({ dy, saved }))

  const trained = parametersOf(0)
  trained.delete('empty')
  const optimiser = new AdamW(trained, { lr: 0.1 })
  for (let i = 0; i < (rank === 0 ? 3 : 0); i++) optimiser.step()
  await mpi.broadcast(optimiser)
  const state = optimiser.state()
  const moments = new Map(Object.entries(state.parameters))

  const gathered: unknown[][] = []
  for (const value of valuesOf(rank)) gathered.push(await mpi.allGather(value))

  await sleep(100 * rank)
  const now = Date.now()
  await mpi.barrier()
  const after = Date.now()
  const before = await mpi.allGather(now)

  // Not awaited one by one. The rank that comes first has called all of them when the next one calls the first.
  const calls = [mpi.allGather(rank), mpi.allGather(`${rank}`), mpi.averageGradients(map), mpi.allGather({ rank })]
  const [first, second, , third] = (await Promise.all(calls)) as unknown[][]
  const { grad } = map.get('float32')!
  const notAwaited = [...new Float32Array((grad as ReturnType<typeof tensor>).data as Float32Array)]

  const untouched = await bytesOfAll(map, ({ grad }) => grad)
  const noWeight = [
    await refusalOf(() => mpi.averageGradients(map, { weight: 0 })),
    await refusalOf(async () => {
      const now = await bytesOfAll(map, ({ grad }) => grad)
      for (const [name, bytes] of now) if (!Buffer.from(bytes).equals(untouched.get(name)!)) throw new Error(name)
    }),
  ]

  const worker = new Worker(new URL(import.meta.url))
  const ended = new Promise((resolve) => worker.on('exit', resolve))
  const said = await new Promise<WorkerAnswer>((resolve, reject) => {
    worker.on('message', resolve)
    worker.on('error', reject)
  })
  await ended
  await mpi.barrier()

  await mpi.finalize()
  const result: Answer = {
    world: { rank, size, library },
    broadcast,
    dropout,
    optimiser: {
      step: state.step,
      moments: [
        await bytesOfAll(moments, ({ expAvg }) => expAvg),
        await bytesOfAll(moments, ({ expAvgSq }) => expAvgSq),
      ],
    },
    stale,
    gathered,
    barrier: { before, after },
    inOrder: [first, second, third],
    notAwaited,
    noWeight,
    worker: said,
    trap: trapOf(),
  }
  answer(rank, result)
}

if (isMainThread) await main()
else {
  // The package in a worker, which ends without finalize(): the job is the main thread's.
  const { parentPort } = await import('node:worker_threads')
  const one = tensor([1], [1, 1])
  const { y } = lilyForward({ x: one, a: one, router: tensor([0, 0], [2, 1]), b: tensor([1, 3], [2, 1, 1]) })
  const init = await refusalOf(() => mpi.init())
  parentPort!.postMessage({ computed: y.data[0], init } satisfies WorkerAnswer)
}
