/** What an optimiser reads of a model's parameters, and checks before it writes any. */
import { checkFloat, checkShape, checkTypeOrFloat32 } from '../base/checks.js'
import { describe, fail } from '../base/errors.js'
import { get } from '../base/options.js'
import { checkPlace, deviceText } from '../memory/checks.js'
import type { Device } from '../memory/device.js'
import { checkMemory, isHostMemory, type Operand, overlaps, startOf } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'

/** A trainable array and its gradient, of the same shape; both contiguous. */
export interface TrainableParameter {
  /** float32, bfloat16 or float16; updated in place. */
  readonly value: TensorLike
  /** Of the value's type or float32. */
  readonly grad: TensorLike
}

export type Parameters = ReadonlyMap<string, TrainableParameter>

export interface ParameterOperands {
  readonly name: string
  readonly value: Operand
  readonly grad: Operand
}

export function readNames(parameters: unknown): string[] {
  if (!(parameters instanceof Map)) {
    fail(
      'ERR_LILY_ARGUMENT',
      'parameters',
      `expected a Map from names to { value, grad }, such as model.parameters(), got ${describe(parameters)}`,
    )
  }
  const names: unknown[] = [...parameters.keys()]
  if (names.length === 0) fail('ERR_LILY_ARGUMENT', 'parameters', 'expected at least one parameter, got none')
  const wrong = names.find((name) => typeof name !== 'string')
  if (wrong !== undefined) fail('ERR_LILY_ARGUMENT', 'parameters', `expected names as keys, got ${describe(wrong)}`)
  return names as string[]
}

/** Reads through getters, which may do work of the model's: those of gradients after all others. */
export function readParameters(parameters: Parameters, names: readonly string[]): ParameterOperands[] {
  if (parameters.size !== names.length) {
    fail(
      'ERR_LILY_ARGUMENT',
      'parameters',
      `expected the ${names.length} parameters that the optimiser was made with, got ${parameters.size}; make a new one`,
    )
  }
  const values = names.map((name) => readValue(parameters, name))
  const grads = names.map((name) => readOperand(parameters, name, 'grad'))
  return names.map((name, i) => ({ name, value: values[i], grad: grads[i] }))
}

export function readValue(parameters: Parameters, name: string): Operand {
  return readOperand(parameters, name, 'value')
}

function readOperand(parameters: Parameters, name: string, of: 'value' | 'grad'): Operand {
  const parameter: unknown = parameters.get(name)
  if (typeof parameter !== 'object' || parameter === null) {
    fail('ERR_LILY_ARGUMENT', name, `expected a parameter, { value, grad }, got ${describe(parameter)}`)
  }
  return resolve(`${name}.${of}`, get(name, parameter, of))
}

/** A value that has state of this shape on this device. */
export function checkValue(name: string, value: Operand, device: Device, shape: readonly number[]): void {
  const argument = `${name}.value`
  if (value.device !== device) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `is on device ${deviceText(value.device)}, but the optimiser's state is on ${deviceText(device)}; ` +
        `make a new AdamW once all parameters are on one device, and load() the state into it`,
    )
  }
  checkShape(argument, value, shape)
  checkFloat(argument, value)
  checkContiguous(argument, value)
}

export function checkParameters(parameters: readonly ParameterOperands[]): void {
  for (const { name, value, grad } of parameters) {
    checkMemory(`${name}.value`, value)
    checkPlace(`${name}.grad`, grad, `${name}.value`, value)
    checkShape(`${name}.grad`, grad, value.shape)
    checkTypeOrFloat32(`${name}.grad`, grad, value.dtype)
    checkContiguous(`${name}.grad`, grad)
  }
  refuseSharedMemory(parameters)
}

function checkContiguous(argument: string, { rows, columns, pitch }: Operand): void {
  if (rows <= 1 || pitch === columns) return
  fail(
    'ERR_LILY_SHAPE',
    argument,
    `expected contiguous rows, got ${columns} columns with a pitch of ${pitch}; make a contiguous copy`,
  )
}

/**
 * Each array needs memory of its own: one that is listed twice would be updated twice. In the order of their addresses
 * only neighbours can overlap, and if any overlap, two neighbours do.
 */
function refuseSharedMemory(parameters: readonly ParameterOperands[]): void {
  const buffers = new Map<ArrayBufferLike | null, { argument: string; operand: Operand; start: number }[]>()
  for (const { name, value, grad } of parameters) {
    for (const [argument, operand] of [[`${name}.value`, value] as const, [`${name}.grad`, grad] as const]) {
      const { memory, byteOffset, byteLength } = operand
      if (byteLength === 0) continue
      const buffer = isHostMemory(memory) ? memory.buffer : null
      const entry = { argument, operand, start: startOf(memory) + byteOffset }
      const others = buffers.get(buffer)
      if (others === undefined) buffers.set(buffer, [entry])
      else others.push(entry)
    }
  }
  for (const entries of buffers.values()) {
    entries.sort((a, b) => a.start - b.start)
    for (let i = 1; i < entries.length; i++) {
      const [before, after] = [entries[i - 1], entries[i]]
      if (!overlaps(before.operand, after.operand)) continue
      fail(
        'ERR_LILY_ARGUMENT',
        after.argument,
        `its memory overlaps that of ${before.argument}; list a shared parameter once, each with a gradient of its own`,
      )
    }
  }
}
