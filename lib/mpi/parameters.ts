/** The parameters that operations are given. */
import { checkFloat } from '../base/checks.js'
import { describeOther, fail } from '../base/errors.js'
import { isMap } from '../base/options.js'
import type { Operand } from '../memory/operand.js'
import { type AdapterModel, isAdapterModel } from '../model/adapter-model.js'
import { checkContiguous, type Parameters, type TrainableParameter } from '../optimiser/parameters.js'

/** An adapter, or trainable arrays by name, such as `model.parameters()`. */
export type Trained = AdapterModel | ReadonlyMap<string, TrainableParameter>

/**
 * The parameters of a model, or the Map itself.
 *
 * @param isOf the parameters of a model that are meant
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_DISPOSED
 */
export function parametersOf(of: unknown, ofModel: (model: AdapterModel) => Parameters, others = ''): Parameters {
  if (isAdapterModel(of)) return ofModel(of)
  if (isMap(of)) return of as Parameters
  const got = describeOther(of, 'LilyModel', 'LoraModel')
  return fail('ERR_LILY_ARGUMENT', 'of', `expected a LilyModel, a LoraModel or model.parameters()${others}, got ${got}`)
}

/** Checks the value of a parameter. */
export function checkValue(argument: string, value: Operand): void {
  checkFloat(argument, value)
  checkContiguous(argument, value)
}
