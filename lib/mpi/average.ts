/** The average of gradients over all ranks. */
import { bytesOf, type HostData } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { checkCount, entriesOf, type Known, readProperties } from '../base/options.js'
import { dtype as dtypeNumbers } from '../binding/slots.js'
import { backends } from '../memory/backends.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import { type AverageOptions, readWeight } from '../optimiser/distributed.js'
import {
  checkParameters,
  type ParameterOperands,
  type Parameters,
  readNames,
  readParameters,
} from '../optimiser/parameters.js'
import { agreed, type Description, digestOf, type Setting, type TensorDescription } from './comparison.js'
import { type Argument, checkWritable, layoutOf, onHost, properties, writeBack } from './operands.js'
import { checkValue, parametersOf, type Trained } from './parameters.js'
import { enqueue } from './world.js'

const OPTIONS: Known = new Set<keyof AverageOptions>(['weight', 'bucketBytes', 'equal'])
const BUCKET = 32 * 2 ** 20
const LABEL = 'averageGradients()'
const EQUAL =
  'pass AdamW and its step() the same options on all ranks, and await broadcast(optimiser) after one has loaded a state'

/** What is compared of the parameters of the last call: the operands of a model are the same in each step. */
const described = new WeakMap<
  Parameters,
  { readonly operands: readonly Operand[]; readonly tensors: readonly TensorDescription[] }
>()
/** The copies of gradients of the last call, and what they are copies of. */
const copies = new WeakMap<Parameters, { readonly layout: string; readonly data: readonly HostData[] }>()
/** The parameters whose values were equal on all ranks when their gradients were first averaged. */
const compared = new WeakSet<Parameters>()

/**
 * Replaces the gradients of every rank by their weighted average over all ranks, in place:
 *
 *     grad = sum_r c_r grad_r        c_r = weight_r / sum_s weight_s, rounded to float32; with weight 'sum': c_r = 1
 *
 * The sum is float32, in the order of ranks, and a 16-bit gradient is rounded once. So all ranks get the same bits, and all
 * runs with the same number of ranks do, with every MPI library. If each rank's loss is a mean over `weight` tokens, the result
 * is the gradient of the mean over all of them.
 *
 * `AdamW` with the option `distributed` calls this in each step. Until the promise resolves, the gradients must neither be
 * read nor written; if one is transferred, the promise rejects. Those on a device are copied to the host and back, once the
 * work enqueued on them is complete.
 *
 * The first call for a model, or for a Map, also compares the values of the ranks, which are equal after {@link broadcast}.
 *
 * @param of a model, all of whose trainable parameters take part, or parameters by name. On all ranks the names are alike, and
 *   their order, shapes and types
 * @throws LilyError (as a rejection) ERR_LILY_ARGUMENT, also on all ranks alike if they differ, with the first difference, or if
 *   all weights are 0; ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY: no gradient has
 *   been written; ERR_LILY_CUDA
 * @example
 * await mpi.averageGradients(model, { weight: tokens })
 */
export async function averageGradients(of: Trained, options: AverageOptions = {}): Promise<void> {
  const { weight, bucketBytes, equal } = readProperties('options', options, OPTIONS, (given) => ({
    weight: readWeight(given.weight),
    bucketBytes:
      given.bucketBytes === undefined ? BUCKET : checkCount('bucketBytes', given.bucketBytes, 4, 2 ** 31 - 1),
    equal: entriesOf('equal', (given.equal ?? {}) as Readonly<Record<string, string | number>>),
  }))
  const given = parametersOf(of, (model) => model.parameters())
  const parameters = readGradients(given)
  const grads = argumentsOf(parameters, 'grad')
  for (const grad of grads) checkWritable(grad)
  await enqueue(LABEL, async ({ mpi }) => {
    if (mpi === null) {
      if (weight === 0) failWithoutShares()
      return
    }
    const values = compared.has(given) ? null : digestOf((await onHost(argumentsOf(parameters, 'value'))).map(bytesOf))
    const layout = grads.map(layoutOf).join()
    const last = copies.get(given)
    const data = await onHost(grads, true, last?.layout === layout ? last.data : [])
    copies.set(given, { layout, data })
    const dtypes = grads.map(({ operand }) => dtypeNumbers[operand.dtype])
    const share = weight === 'sum' ? NaN : weight
    await agreed(
      mpi,
      describe(descriptionsOf(given, parameters), parameters, weight, bucketBytes, equal, values),
      (key) => mpi.reduce(LABEL, key, data, dtypes, share, bucketBytes),
    )
    compared.add(given)
    writeBack(grads, data)
  })
}

function readGradients(given: Parameters): ParameterOperands[] {
  const parameters = readParameters(given, readNames(given))
  for (const { name, value } of parameters) checkValue(`${name}.value`, value)
  checkParameters(parameters, new Map())
  return parameters
}

/** The arrays that have elements. */
function argumentsOf(parameters: readonly ParameterOperands[], of: 'value' | 'grad'): Argument[] {
  const all = parameters.map((parameter) => ({ argument: `${parameter.name}.${of}`, operand: parameter[of] }))
  return all.filter(({ operand }) => operand.byteLength > 0)
}

function descriptionsOf(given: Parameters, parameters: readonly ParameterOperands[]): readonly TensorDescription[] {
  const operands = parameters.flatMap(({ value, grad }) => [value, grad])
  const last = described.get(given)
  if (last?.operands.length === operands.length && operands.every((operand, i) => operand === last.operands[i])) {
    return last.tensors
  }
  const tensors = parameters.map(({ name, value, grad }) => ({
    name,
    properties: [...properties(value), `with a gradient of type ${grad.dtype}`],
  }))
  described.set(given, { operands, tensors })
  return tensors
}

/** @param values a digest of the values; null: they were compared before */
function describe(
  tensors: readonly TensorDescription[],
  parameters: readonly ParameterOperands[],
  weight: number | 'sum',
  bucketBytes: number,
  equal: readonly (readonly [string, string | number])[],
  values: string | null,
): Description {
  const settings: Record<string, Setting> = {
    // First, so that no name of the caller replaces what the exchange depends on.
    ...Object.fromEntries(equal.map(([what, value]) => [what, { value, remedy: EQUAL }])),
    weight: {
      value: weight === 'sum' ? "'sum'" : 'of a number',
      remedy: "pass weight: 'sum' on all ranks or on none",
    },
    bucketBytes: { value: bucketBytes, remedy: 'pass the same bucketBytes on all ranks' },
  }
  // AdamW goes on with the averages, and adds the squares for a norm in another order.
  if (parameters.some(({ value }) => value.device === CPU)) settings['the instruction set'] = instructionSet()
  // Last: values of models that differ otherwise differ as well.
  settings.values = {
    value: values === null ? 'that were compared before' : `with the digest ${values}`,
    remedy:
      'await broadcast(model) on all ranks once the model is created or read, and pass the same model or Map in each step',
  }
  return { operation: LABEL, tensors, settings }
}

let simd: string | undefined

function instructionSet(): Setting {
  simd ??= backends()[0].devices[0].simd
  return { value: simd ?? '', remedy: 'set LILY_CPU_ISA on all ranks to one that all processors have' }
}

function failWithoutShares(): never {
  fail('ERR_LILY_ARGUMENT', 'weight', 'the weights of all ranks are 0; leave this step out on all of them')
}
