/** Operations in which the last rank differs: each is refused on all ranks. */
import { announcedRank, answer, bytesOfAll, input, mark, marked, refusalOf, type Refusal } from './rank.js'

export interface Input {
  /** Instruction set of the last rank, for the kernels on the host. */
  readonly isa?: string
  readonly last: number
  /** The program of the last rank is of another version of the package. */
  readonly isOtherVersion?: boolean
}
export interface Answer {
  /** By the name of the difference. `isUnchanged`: no value and no gradient has been written. */
  readonly cases: ReadonlyMap<string, { readonly refusal: Refusal | null; readonly isUnchanged: boolean }>
}

const { last, isa, isOtherVersion = false } = input() as Input
const differs = announcedRank === last
// The addon reads it when it is loaded.
if (isa !== undefined && differs) process.env.LILY_CPU_ISA = isa
const mpi = await import('lily-kernels/mpi')
const { AdamW, tensor } = await import('../../../lib/index.js')
type Parameters = Parameters_[0]
type Parameters_ = [ReadonlyMap<string, import('../../../lib/index.js').TrainableParameter>]

const { rank, size } = await mpi.init()

/** The code of a job that cannot be finalized. */
export const EXIT = 7

type Float = 'float32' | 'bfloat16' | 'float16'
type Shape = readonly [name: string, shape: readonly number[], value?: Float, grad?: Float]

function parametersOf(shapes: readonly Shape[], number = rank + 1): Parameters {
  const filled = (shape: readonly number[], dtype: Float, by: number) => {
    const length = shape.reduce((product, size) => product * size, 1)
    return tensor(new (dtype === 'float32' ? Float32Array : Uint16Array)(length).fill(by), [...shape], dtype)
  }
  return new Map(
    shapes.map(([name, shape, value = 'float32', grad = value]) => [
      name,
      { value: filled(shape, value, number), grad: filled(shape, grad, rank + 1) },
    ]),
  )
}

const usual: readonly Shape[] = [
  ['a', [4, 6]],
  ['b', [6, 5], 'bfloat16'],
  ['c', [3]],
]
const MODELS: Readonly<Record<string, readonly Shape[]>> = {
  name: [usual[0], ['z', [6, 5], 'bfloat16'], usual[2]],
  order: [usual[1], usual[0], usual[2]],
  fewer: usual.slice(0, 2),
  more: [...usual, ['d', [1]]],
  shape: [usual[0], ['b', [5, 6], 'bfloat16'], usual[2]],
  dimensions: [['a', [24]], usual[1], usual[2]],
  'type of the value': [usual[0], ['b', [6, 5], 'float16'], usual[2]],
  'type of the gradient': [usual[0], ['b', [6, 5], 'bfloat16', 'float32'], usual[2]],
}

const cases = new Map<string, { refusal: Refusal | null; isUnchanged: boolean }>()

async function check(name: string, parameters: Parameters, call: () => unknown): Promise<void> {
  const copies = async () => [
    await bytesOfAll(parameters, ({ value }) => value),
    await bytesOfAll(parameters, ({ grad }) => grad),
  ]
  const before = await copies()
  const refusal = await refusalOf(call)
  const after = await copies()
  const isUnchanged = before.every((map, i) =>
    [...map].every(([key, bytes]) => Buffer.from(bytes).equals(after[i].get(key)!)),
  )
  cases.set(name, { refusal, isUnchanged })
}

if (isOtherVersion) {
  const parameters = parametersOf(usual)
  await check('version', parameters, () => mpi.broadcast(parameters))
  await check('version, averageGradients', parameters, () => mpi.averageGradients(parameters))
} else if (isa !== undefined) {
  const parameters = parametersOf(usual)
  await check('instruction set', parameters, () => mpi.averageGradients(parameters))
} else {
  for (const [name, shapes] of Object.entries(MODELS)) {
    const parameters = parametersOf(differs ? shapes : usual)
    await check(name, parameters, () => mpi.averageGradients(parameters))
    // The type of a gradient does not matter to a broadcast of values.
    if (name !== 'type of the gradient') await check(`${name}, broadcast`, parameters, () => mpi.broadcast(parameters))
  }
  if (size > 2) {
    const others = parametersOf(differs ? MODELS.dimensions : rank === last - 1 ? MODELS.shape : usual)
    await check('shape, and another on the next rank', others, () => mpi.averageGradients(others))
  }
  const parameters = parametersOf(usual)
  await check('bucketBytes', parameters, () => mpi.averageGradients(parameters, { bucketBytes: differs ? 4096 : 8192 }))
  await check('bucketBytes, beside something else of this name', parameters, () =>
    mpi.averageGradients(parameters, { bucketBytes: differs ? 4096 : 8192, equal: { bucketBytes: 1 } }),
  )
  await check('sum', parameters, () => mpi.averageGradients(parameters, { weight: differs ? 'sum' : 1 }))
  await check('barrier', parameters, () => (differs ? mpi.barrier() : mpi.averageGradients(parameters)))
  await check('gather', parameters, () => (differs ? mpi.allGather(1) : mpi.broadcast(parameters)))
  await check('broadcast', parameters, () => (differs ? mpi.broadcast(parameters) : mpi.averageGradients(parameters)))
  await check('finalize', parameters, () => (differs ? mpi.barrier() : mpi.finalize()))
  const alike = parametersOf(usual, 1)
  // test/optimiser/distributed.test.ts has what AdamW gives to be compared.
  const optimiser = new AdamW(alike, { lr: differs ? 0.2 : 0.1, distributed: mpi })
  await check('lr', alike, () => optimiser.step())
  await check('optimiser, or none', alike, () => (differs ? optimiser.step() : mpi.averageGradients(alike)))
  const changed = parametersOf(usual, differs ? 2 : 1)
  await check('values', changed, () => mpi.averageGradients(changed))
  const equal = parametersOf(usual, 1)
  await mpi.averageGradients(equal)
  const compared = differs ? parametersOf(usual, 1) : equal
  await check('values, compared before on the other ranks', compared, () => mpi.averageGradients(compared))
  await check('optimiser', parameters, () => mpi.broadcast(differs ? new AdamW(parameters) : parameters))
}
// The ranks agree on what comes next, unless they are of other versions, of which every operation is refused.
if (!isOtherVersion) await mpi.barrier()
const result: Answer = { cases }
answer(rank, result)
if (isOtherVersion) {
  // The first rank that exits aborts the job.
  mark(`${rank}`)
  for (let i = 0; i < size; i++) await marked(`${i}`)
  process.exit(EXIT)
}
await mpi.finalize()
