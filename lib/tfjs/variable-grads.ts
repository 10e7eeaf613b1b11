/** The gradients of a loss by variables of TensorFlow.js and by the parameters of adapters. */
import {
  engine,
  type NamedTensorMap,
  type Scalar,
  scalar,
  Tensor,
  tidy,
  Variable,
  variable,
  variableGrads as tfVariableGrads,
} from '@tensorflow/tfjs-core'
import { describe, fail } from '../base/errors.js'
import { elementsOf } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import type { AdapterModel } from '../model/adapter-model.js'
import { releaseTape } from './operation.js'
import { type Recording, withRecording } from './recording.js'

/** One adapter, or several whose layers a loss depends on. */
export type AdapterModels = AdapterModel | readonly AdapterModel[]

/**
 * `tf.variableGrads` for a loss that depends on adapters. The gradients of the adapters' parameters add up in
 * `model.parameters()` until `model.zeroGrad()`; the gradients of variables are returned.
 *
 * What {@link adaptedLinear} and {@link adapt} keep for backward is released before this function returns or throws. After an error in the middle
 * of backward the gradients of the parameters are incomplete: call `model.zeroGrad()`.
 *
 * @param f returns the loss, a scalar. It calls `adaptedLinear` or `adapt` with layers of `model`
 * @param variables those whose gradients are returned. Default: all trainable ones; [] for the adapter alone
 * @returns the loss, and the gradients by variable name
 * @throws LilyError ERR_LILY_ARGUMENT also if f calls no adapted layer, if the loss does not depend on one that it calls, or
 *   if a gradient of a gradient is asked for; ERR_LILY_SHAPE if the loss is no scalar; what f throws
 * @example
 * const { value, grads } = variableGrads(() => loss(adaptedLinear(x, kernel, layer)), model, [head])
 */
export function variableGrads(
  f: () => Tensor,
  model: AdapterModels,
  variables: readonly Variable[] = trainableVariables(),
): { value: Scalar; grads: NamedTensorMap } {
  if (typeof f !== 'function') fail('ERR_LILY_ARGUMENT', 'f', `expected a function, got ${describe(f)}`)
  const models = readModels(model)
  const trained = readVariables(variables)
  if (engine().isTapeOn()) fail('ERR_LILY_ARGUMENT', 'f', 'a gradient is being recorded already; do not nest them')

  const zero = scalar(0)
  const anchor = variable(zero) as Variable & Scalar
  zero.dispose()
  const recording: Recording = { models, variables: trained, anchor, calls: [] }
  try {
    // After an error tidy disposes of what has been computed, and always of the gradient of anchor.
    return tidy(() => {
      const { value, grads } = withRecording(recording, () => gradientsOf(f, recording))
      checkReached(recording)
      const { [anchor.name]: _, ...others } = grads
      return { value, grads: others }
    })
  } finally {
    anchor.dispose()
  }
}

function trainableVariables(): Variable[] {
  return Object.values(engine().registeredVariables).filter(({ trainable }) => trainable)
}

export function readModels(model: unknown): AdapterModel[] {
  const models = elementsOf(model) ?? [model]
  for (const one of models) {
    if ((one as Partial<AdapterModel> | null | undefined)?.layers instanceof Map) continue
    fail('ERR_LILY_ARGUMENT', 'model', `expected a LilyModel or a LoraModel, or an array of them, got ${describe(one)}`)
  }
  if (new Set(models).size < models.length)
    fail('ERR_LILY_ARGUMENT', 'model', 'expected each model once, got one twice')
  return models as AdapterModel[]
}

export function readVariables(variables: unknown): Variable[] {
  const list = elementsOf(variables)
  if (list === null) {
    fail('ERR_LILY_ARGUMENT', 'variables', `expected an array of variables, got ${describe(variables)}`)
  }
  for (const [i, variable] of list.entries()) {
    if (variable instanceof Variable) continue
    fail('ERR_LILY_ARGUMENT', `variables[${i}]`, `expected a tf.Variable, got ${describe(variable)}`)
  }
  return list as Variable[]
}

function gradientsOf(f: () => Tensor, recording: Recording): ReturnType<typeof tfVariableGrads> {
  try {
    return tfVariableGrads(() => checkedLoss(f, recording), [...recording.variables, recording.anchor])
  } catch (cause) {
    releaseTape()
    // The loss depends on no variable, and so on no call of an adapter. The error has no code; of another text it is passed on.
    if (cause instanceof Error && cause.message.startsWith('Cannot find a connection')) checkReached(recording)
    throw cause
  }
}

/** The loss. Nothing has been written to a gradient yet. */
function checkedLoss(f: () => Tensor, { calls }: Recording): Scalar {
  const loss = f()
  if (calls.length === 0) {
    fail(
      'ERR_LILY_ARGUMENT',
      'f',
      'it calls adaptedLinear or adapt with no layer of model; use tf.variableGrads, or call one of them',
    )
  }
  if (!(loss instanceof Tensor)) {
    const got = describe(loss).replace('await it', 'f cannot be async: await what it needs before')
    fail('ERR_LILY_ARGUMENT', 'f', `expected it to return the loss, a scalar, got ${got}`)
  }
  if (loss.shape.length === 0) return loss as Scalar
  return fail(
    'ERR_LILY_SHAPE',
    'f',
    `expected it to return the loss, a scalar, got shape ${shapeText(loss.shape)}; return tf.mean or tf.sum of it`,
  )
}

function checkReached({ calls }: Recording): void {
  const lost = calls.find(({ isDone }) => !isDone)
  if (lost === undefined) return
  fail(
    'ERR_LILY_ARGUMENT',
    'f',
    `the loss does not depend on a call of layer '${lost.layer.name}', whose gradient would be zero; pass ` +
      'training: false to calls whose output the loss does not use',
  )
}
