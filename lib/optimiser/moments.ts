/** The moments that AdamW keeps for each parameter: float32, on the parameter's device. */
import { checkShape, checkType } from '../base/checks.js'
import { describe, fail } from '../base/errors.js'
import { type Moments, MOMENTS } from '../checkpoint/optimiser-state.js'
import { newOperand } from '../memory/allocate.js'
import { CPU, type Device, deviceText } from '../memory/device.js'
import { checkMemory, type Operand } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import { clear, copyOnHost, copyToDevice } from '../tensor/transfer.js'

/** Allocates moments with value zero. `placement` is null on the host. */
export function newMoments(name: string, shape: readonly number[], placement: Placement | null): Moments {
  const zeros = (moment: string) => {
    const operand = newOperand(`${name}.${moment}`, 'float32', shape, placement)
    clear(operand)
    return operand
  }
  return { expAvg: zeros('expAvg'), expAvgSq: zeros('expAvgSq') }
}

export function disposeMoments(moments: Moments): void {
  for (const moment of MOMENTS) moments[moment].dispose()
}

/** A contiguous copy on `device` of an operand that is there or on the host. */
export function copyTo(device: Device, operand: Operand): Operand {
  return device === CPU ? copyOnHost(operand) : copyToDevice(operand, device)
}

/** Checks that moments fit the state of a parameter: its shape, float32, and on its device or on the host. */
export function checkMoments(name: string, moments: Moments, { device, shape }: Operand): void {
  for (const moment of MOMENTS) {
    const argument = `state.parameters['${name}'].${moment}`
    const operand = moments[moment]
    checkShape(argument, operand, shape)
    checkType(argument, operand, 'float32')
    if (operand.device !== device && operand.device !== CPU) {
      fail(
        'ERR_LILY_DEVICE',
        argument,
        `expected device ${deviceText(device)}, as the parameters have${device === CPU ? '' : ', or cpu:0'}, got ` +
          `${deviceText(operand.device)}; await its toHost() first`,
      )
    }
    checkMemory(argument, operand)
  }
}

export function checkNames(names: readonly string[], given: readonly string[]): void {
  const missing = names.find((name) => !given.includes(name))
  const unknown = given.find((name) => !names.includes(name))
  if (missing === undefined && unknown === undefined) return
  // A shared parameter has the name of its first layer.
  const advice = 'load the state of the same model, with its layers in the same order'
  fail(
    'ERR_LILY_ARGUMENT',
    'state.parameters',
    missing !== undefined
      ? `expected an entry for the parameter ${describe(missing)}, got none; ${advice}`
      : `expected only parameters of the optimiser, got ${describe(unknown)}; ${advice}`,
  )
}
