/** Copies from rank 0 to all ranks. */
import { MOMENTS } from '../checkpoint/optimiser-state.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { isAdapterModel } from '../model/adapter-model.js'
import { AdamW } from '../optimiser/adamw.js'
import type { Distributed } from '../optimiser/distributed.js'
import { readNames, readValue } from '../optimiser/parameters.js'
import { operandOf, tensor } from '../tensor/tensor.js'
import { agreed, type Description } from './comparison.js'
import { type Argument, checkWritable, onHost, properties, writeBack } from './operands.js'
import { checkValue, parametersOf, type Trained } from './parameters.js'
import { type Connected, enqueue } from './world.js'

const LABEL = 'broadcast()'

/** An array by the name under which ranks compare it. */
interface NamedArgument extends Argument {
  readonly name: string
}

/**
 * Gives all ranks the values of rank 0: those of all parameters of a model, trainable or not, or of parameters by name; or the
 * state of an optimiser, the number of its steps and its moments. Call it for a model that was created or read, before the
 * first step: training then keeps the ranks equal. A backward of a forward before it is an error.
 *
 * A model whose dropout has a rate other than 0 also gets its seed and its position from rank 0, and the rank is added to the upper
 * word of the seed: ranks drop other elements, and continue so after `readPretrainedState` and a broadcast.
 *
 * @param of on all ranks the names are alike, and their order, shapes, types and kinds of device
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, also on all ranks alike if they differ, with the first difference;
 *   ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY: no value has been written; ERR_LILY_CUDA
 * @example
 * const model = LilyModel.create({ layers, config })
 * await mpi.broadcast(model)
 */
export async function broadcast(of: Trained | AdamW<Distributed | undefined>): Promise<void> {
  if (of instanceof AdamW) {
    await enqueue(LABEL, (connected) => broadcastState(of, connected))
    return
  }
  const values = readValues(of)
  for (const value of values) checkWritable(value)
  const dropout = isAdapterModel(of) && of.dropout.rate > 0 ? of.dropout : null
  await enqueue(LABEL, async ({ world: { rank }, mpi }) => {
    if (mpi === null) return
    const data = await onHost(values, rank === 0)
    const words = dropout === null ? [] : [(await dropout.copyState()) as Int32Array]
    await agreed(mpi, describe(values, dropout?.rate), (key) => mpi.broadcast(LABEL, key, [...data, ...words]))
    if (rank > 0) writeBack(values, data)
    for (const { operand } of values) operand.version++
    for (const state of words) if (rank > 0) dropout?.restore(ofRank(state, rank))
  })
}

function readValues(of: unknown): NamedArgument[] {
  const parameters = parametersOf(of, (model) => model.allParameters(), ', or an AdamW')
  const values = readNames(parameters).map((name) => ({
    name,
    argument: `${name}.value`,
    operand: readValue(parameters, name),
  }))
  for (const { argument, operand } of values) {
    checkValue(argument, operand)
    checkMemory(argument, operand)
  }
  return values.filter(({ operand }) => operand.byteLength > 0)
}

function describe(values: readonly NamedArgument[], rate = 0): Description {
  return {
    operation: LABEL,
    tensors: values.map(({ name, operand }) => ({ name, properties: properties(operand) })),
    settings: { 'a rate of dropout of': { value: rate, remedy: 'create the model with the same config on all ranks' } },
  }
}

/** The state of dropout of a rank: another seed, and the same position. */
function ofRank(words: Int32Array, rank: number): Int32Array {
  return words.with(1, words[1] + rank)
}

async function broadcastState(
  optimiser: AdamW<Distributed | undefined>,
  { world: { rank }, mpi }: Connected,
): Promise<void> {
  const { parameters } = optimiser.state()
  const entries = Object.entries(parameters)
  const moments = entries.flatMap(([name, state]) =>
    MOMENTS.map((moment) => ({
      name: `${name}.${moment}`,
      argument: `${name}.${moment}`,
      operand: operandOf(state[moment]) as Operand,
    })),
  )
  try {
    if (mpi === null) return
    const data = await onHost(moments, rank === 0)
    // Of a device the number is known once something was copied from there.
    const step = Float64Array.of(optimiser.stepCount)
    await agreed(mpi, describe(moments), (key) =>
      mpi.broadcast(LABEL, key, [...data.filter(({ length }) => length > 0), step]),
    )
    if (rank === 0) return
    const read = entries.map(
      (
        [
          name,
          {
            expAvg: { shape },
          },
        ],
        i,
      ) => {
        const [expAvg, expAvgSq] = [data[2 * i], data[2 * i + 1]].map((each) => tensor(each, shape, 'float32'))
        return [name, { expAvg, expAvgSq }] as const
      },
    )
    optimiser.load({ step: step[0], parameters: Object.fromEntries(read) })
  } finally {
    for (const { operand } of moments) operand.dispose()
  }
}
