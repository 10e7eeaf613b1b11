/** A build of lily-kernels as a contender of `npm run bench:rows`: `--package DIR` is its folder. */
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { AdapterModel, Tensor } from '../../lib/index.js'
import { evenlySpaced } from '../peers/protocol.js'
import { answerRequests } from '../peers/serve.js'
import { fillPattern } from '../workload/pattern.js'
import { firstNumber, type Method, type Problem, type Reply, type Request, SCALES } from './protocol.js'

type Lily = typeof import('../../lib/index.js')

const { values: options } = parseArgs({ options: { package: { type: 'string', default: '.' } } })
const lily = (await import(String(pathToFileURL(join(resolve(options.package), 'dist', 'index.js'))))) as Lily

const LAYER = 'proj'

/** The operands of a problem, and its methods. */
interface Opened {
  readonly y: Tensor
  readonly runs: Readonly<Partial<Record<Method, () => void>>>
}

const fill = ({ data }: Tensor, scale: number, begin: number): void => fillPattern(data as Float32Array, scale, begin)

const zeros = (...shape: number[]): Tensor =>
  lily.tensor(new Float32Array(shape.reduce((product, size) => product * size)), shape)

function makeModel({ adapter, d, rank, experts }: Problem, k: number): AdapterModel {
  const layers = [{ name: LAYER, inFeatures: d, outFeatures: d }]
  const routing = adapter === 'lily' ? 'batch' : 'token'
  const model =
    adapter === 'lora'
      ? lily.LoraModel.create({ layers, config: { r: rank, loraAlpha: rank } })
      : lily.LilyModel.create({ layers, config: { r: rank, numB: experts, strideA: 1, scaling: 1, routing } })
  for (const { kind, value } of model.parameters().values()) {
    fill(value, SCALES[kind](d, rank), firstNumber(k))
  }
  return model
}

function open(problem: Problem, of: readonly number[]): Opened {
  const { sequences, length, d } = problem
  const models = Array.from({ length: problem.adapters }, (_, k) => makeModel(problem, k))
  const [x, y] = [zeros(sequences, length, d), zeros(sequences, length, d)]
  fill(x, 1, 0)
  const layer = (k: number) => models[k].layer(LAYER)
  const forward = (k: number, inputs: { x: Tensor; y: Tensor }) => layer(k).forward(inputs, { save: false })
  const loops = models.map((_, k) =>
    loopOf(
      x,
      y,
      of.flatMap((each, i) => (each === k ? [i] : [])),
    ),
  )
  const runs: Partial<Record<Method, () => void>> = {
    one: () => forward(0, { x, y }),
    loop: () => {
      loops.forEach(({ operands, gather, scatter }, k) => {
        gather()
        forward(k, operands)
        scatter()
      })
    },
  }
  const all = models.reduce((adapters, model, k) => adapters.addAdapter(String(k), model), new lily.LilyAdapters())
  const rows = of.map(String)
  runs.call = () => all.layer(LAYER).forward({ x, y }, { rows, save: false })
  return { y, runs }
}

/** Rows of x and y for a call of their own: parts of x and y if they follow each other, otherwise copies. */
function loopOf(x: Tensor, y: Tensor, sequences: readonly number[]) {
  const [, length, d] = x.shape
  const size = length * d
  const part = ({ data }: Tensor, i: number, count = 1) => (data as Float32Array).subarray(i * size, (i + count) * size)
  const shape = [sequences.length, length, d]
  if (sequences.at(-1) === sequences[0] + sequences.length - 1) {
    const run = (tensor: Tensor) => lily.tensor(part(tensor, sequences[0], sequences.length), shape)
    return { operands: { x: run(x), y: run(y) }, gather: () => undefined, scatter: () => undefined }
  }
  const operands = { x: zeros(...shape), y: zeros(...shape) }
  return {
    operands,
    gather: () => {
      sequences.forEach((i, to) => {
        part(operands.x, to).set(part(x, i))
        part(operands.y, to).set(part(y, i))
      })
    },
    scatter: () => {
      sequences.forEach((i, from) => {
        part(y, i).set(part(operands.y, from))
      })
    },
  }
}

let opened: Opened | null = null

function answer(request: Request): Reply {
  if (request.request === 'open') {
    opened = open(request.problem, request.of)
    return { methods: Object.keys(opened.runs) as Method[] }
  }
  const run = opened?.runs[request.method]
  if (opened === null || run === undefined) throw new Error(`${request.method} is not open`)
  if (request.request === 'outputs') {
    const values = opened.y.data as Float32Array
    values.fill(0)
    run()
    return { outputs: { y: evenlySpaced(values) } }
  }
  const end = performance.now() + request.warmup * 1000
  do run()
  while (performance.now() < end)
  const begin = process.hrtime.bigint()
  for (let call = 0; call < request.calls; call++) run()
  return { seconds: Number(process.hrtime.bigint() - begin) / 1e9 / request.calls }
}

await answerRequests({ versions: {}, methods: [], missing: [] }, (request) =>
  Promise.resolve(answer(request as Request)),
)
