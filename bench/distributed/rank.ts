/** A rank of the job of this package; mpirun starts it. */
import { createInterface } from 'node:readline'
import { LoraModel, type Parameter, tensor } from '../../lib/index.js'
import * as mpi from '../../lib/mpi/index.js'
import { gradientOf, hashOf, type Reply, type Request, type Way } from './protocol.js'

/** Layers whose A and B have 64 KiB each. */
const [RANK, FEATURES] = [16, 1024]
const LAYER_BYTES = 4 * RANK * 2 * FEATURES

const { rank, library } = await mpi.init()
const ways = new Map<Way, Parameters<typeof mpi.averageGradients>[0]>()

function makeArray(bytes: number): ReadonlyMap<string, Pick<Parameter, 'value' | 'grad'>> {
  const [value, grad] = [0, 1].map(() => tensor(new Float32Array(bytes / 4), [bytes / 4]))
  return new Map([['gradients', { value, grad }]])
}

function makeModel(bytes: number): LoraModel {
  const layers = Array.from({ length: bytes / LAYER_BYTES }, (_, l) => {
    return { name: `layers.${l}.proj`, inFeatures: FEATURES, outFeatures: FEATURES }
  })
  return LoraModel.create({ layers, config: { r: RANK }, seed: 1 })
}

async function open(bytes: number): Promise<Reply> {
  const [array, model] = [makeArray(bytes), makeModel(bytes)]
  ways.set('array', array).set('model', model)
  const average = async (way: Way, parameters: ReturnType<typeof makeArray>): Promise<number> => {
    const gradients = Array.from(parameters.values(), ({ grad }) => grad.data as Float32Array)
    let i = 0
    for (const data of gradients) for (const k of data.keys()) data[k] = gradientOf(i++, rank)
    await mpi.averageGradients(ways.get(way)!)
    return gradients.reduce<number | undefined>((hash, data) => hashOf(data, hash), undefined)!
  }
  return { hashes: { array: await average('array', array), model: await average('model', model.parameters()) } }
}

async function sample(way: Way, warmup: number, calls: number): Promise<Reply> {
  const parameters = ways.get(way)!
  for (let call = 0; call < warmup; call++) await mpi.averageGradients(parameters)
  await mpi.barrier()
  const begin = process.hrtime.bigint()
  for (let call = 0; call < calls; call++) await mpi.averageGradients(parameters)
  return { seconds: Number(process.hrtime.bigint() - begin) / 1e9 / calls }
}

const lines = rank === 0 ? createInterface({ input: process.stdin })[Symbol.asyncIterator]() : null
const send = (reply: object): void => {
  if (rank === 0) console.log(JSON.stringify(reply))
}

send({ versions: { MPI: library ?? 'none' } })
for (;;) {
  const line = lines === null ? undefined : ((await lines.next()) as IteratorResult<string, undefined>).value
  // The line of rank 0; undefined at the end of stdin.
  const [given] = await mpi.allGather(line)
  if (given === undefined) break
  const request = JSON.parse(given) as Request
  send(
    request.request === 'open' ? await open(request.bytes) : await sample(request.way, request.warmup, request.calls),
  )
}
await mpi.finalize()
