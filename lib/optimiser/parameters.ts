/** Reads and checks the parameters of an optimiser. All checks run before the first value is written. */
import { checkFloat, checkShape, checkTypeOrFloat32 } from '../base/checks.js'
import { countOf, describe, fail, reading } from '../base/errors.js'
import { isMap, type Properties } from '../base/options.js'
import { checkPlace, refuseReadOnly } from '../memory/checks.js'
import { type Device, deviceText } from '../memory/device.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { firstNotFinite, type FloatDType } from '../tensor/numbers.js'
import { copyOnHost } from '../tensor/transfer.js'
import { checkNoOverlap, type Ranges } from './overlap.js'

/** A trainable array and its gradient, of the same shape; both contiguous. */
export interface TrainableParameter {
  /** A tensor of any shape in float32, bfloat16 or float16, updated in place. */
  readonly value: TensorLike
  /** The shape of value; of the type of value, or float32. */
  readonly grad: TensorLike
  /**
   * Sets grad to zero. Optional: without it, AdamW.zeroGrad() fills the memory of grad.
   *
   * @throws as `Parameter.zeroGrad()` if it is of a model. AdamW.zeroGrad() passes on what any other implementation throws
   */
  zeroGrad?(): void
  /**
   * @internal Throws if grad cannot be written. A parameter of a model has it: AdamW.zeroGrad() calls it for all
   * parameters before it writes the first gradient.
   */
  checkGrad?(): void
}

export type Parameters = ReadonlyMap<string, TrainableParameter>

export interface ParameterOperands {
  readonly name: string
  readonly value: Operand
  readonly grad: Operand
}

export function readNames(parameters: unknown): string[] {
  if (!isMap(parameters)) {
    fail(
      'ERR_LILY_ARGUMENT',
      'parameters',
      `expected a Map of { value, grad } by name, such as model.parameters(), got ${describe(parameters)}`,
    )
  }
  const names = [...parameters.keys()]
  if (names.length === 0) fail('ERR_LILY_ARGUMENT', 'parameters', 'expected at least one parameter, got an empty Map')
  for (const name of names) {
    if (typeof name !== 'string')
      fail('ERR_LILY_ARGUMENT', 'parameters', `expected strings as keys, got ${describe(name)}`)
  }
  return names as string[]
}

/**
 * Reads the operands of all parameters. Values are read before gradients: the getter of a gradient may enqueue work,
 * the model's deferred folds.
 */
export function readParameters(parameters: Parameters, names: readonly string[]): ParameterOperands[] {
  checkCount(parameters, names)
  const values = names.map((name) => readValue(parameters, name))
  const grads = names.map((name) => readOperand(parameters, name, 'grad'))
  return names.map((name, i) => ({ name, value: values[i], grad: grads[i] }))
}

/** Reads the parameters whose gradients are to be zeroed: their `zeroGrad` methods, or the operands where there is none. */
export function readGradients(
  parameters: Parameters,
  names: readonly string[],
): { methods: (() => void)[]; others: ParameterOperands[] } {
  checkCount(parameters, names)
  const methods: (() => void)[] = []
  const others: ParameterOperands[] = []
  for (const name of names) {
    const parameter = readParameter(parameters, name)
    const value = readValue(parameters, name) // throws if its model is disposed of
    const { checkGrad, zeroGrad } = parameter
    if (typeof checkGrad === 'function') reading(name, () => void Reflect.apply(checkGrad, parameter, []))
    if (zeroGrad === undefined) others.push({ name, value, grad: readOperand(parameters, name, 'grad') })
    else if (typeof zeroGrad === 'function') methods.push(() => void Reflect.apply(zeroGrad, parameter, []))
    else fail('ERR_LILY_ARGUMENT', `${name}.zeroGrad`, `expected a function, got ${describe(zeroGrad)}`)
  }
  return { methods, others }
}

export function readValue(parameters: Parameters, name: string): Operand {
  return readOperand(parameters, name, 'value')
}

function readOperand(parameters: Parameters, name: string, of: 'value' | 'grad'): Operand {
  return resolve(`${name}.${of}`, readParameter(parameters, name)[of])
}

function readParameter(parameters: Parameters, name: string): Properties {
  const parameter: unknown = parameters.get(name)
  if (typeof parameter === 'object' && parameter !== null) return parameter as Properties
  return fail('ERR_LILY_ARGUMENT', name, `expected a parameter, { value, grad }, got ${describe(parameter)}`)
}

function checkCount({ size }: Parameters, names: readonly string[]): void {
  if (size === names.length) return
  fail(
    'ERR_LILY_ARGUMENT',
    'parameters',
    `expected the ${countOf(names.length, 'parameter')} that the optimiser was created with, got ${size}; create a new AdamW`,
  )
}

/** Checks that a value has the shape and the device of its state. */
export function checkValue(name: string, value: Operand, device: Device, shape: readonly number[]): void {
  const argument = `${name}.value`
  if (value.device !== device) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `expected device ${deviceText(device)}, as the optimiser's state has, got ${deviceText(value.device)}; ` +
        `create a new AdamW once all parameters are on one device, and load() the state into it`,
    )
  }
  checkShape(argument, value, shape)
  checkFloat(argument, value)
  checkContiguous(argument, value)
}

/**
 * Checks the memory of all values, and all gradients against their values.
 *
 * @param state the ranges of the optimiser's own arrays
 */
export function checkParameters(parameters: readonly ParameterOperands[], state: Ranges): void {
  for (const { name, value, grad } of parameters) {
    const [valueName, gradName] = [`${name}.value`, `${name}.grad`]
    checkMemory(valueName, value)
    if (value.isReadOnly) refuseReadOnly(valueName)
    checkPlace(gradName, grad, valueName, value)
    checkShape(gradName, grad, value.shape)
    checkTypeOrFloat32(gradName, grad, value.dtype)
    checkContiguous(gradName, grad)
  }
  checkNoOverlap(parameters, state)
}

/** The error about gradients in host memory that are not all finite. */
export function failNotFinite(parameters: readonly ParameterOperands[]): never {
  const indexOf = ({ grad }: ParameterOperands) =>
    firstNotFinite(grad.dtype as FloatDType, copyOnHost(grad).memory as Float32Array | Uint16Array)
  const found = parameters.find((parameter) => indexOf(parameter) !== -1) as ParameterOperands
  fail(
    'ERR_LILY_ARGUMENT',
    `${found.name}.grad`,
    `expected finite numbers, got an infinity or NaN at element ${indexOf(found)}; the step has updated nothing: call ` +
      "zeroGrad(), and look for the cause in the loss, or pass onNonFinite: 'skip'",
  )
}

/** Checks that an operand has no gaps between its rows. */
export function checkContiguous(argument: string, { rows, columns, pitch }: Operand): void {
  if (rows <= 1 || pitch === columns) return
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected contiguous rows, got ${countOf(columns, 'column')} with a pitch of ${pitch}; make a contiguous copy`,
  )
}
