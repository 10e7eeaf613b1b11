/** The frozen layer alone, and with each adapter in one call. */
import {
  lilyBackward,
  lilyForward,
  linearBackward,
  linearForward,
  loraBackward,
  loraForward,
  type PackedLinear,
} from '../../lib/index.js'
import type { Case } from '../workload/cases.js'
import type { LilyParameters, LoraParameters } from '../workload/operands.js'
import { type Bind, lilyOptions } from './fused.js'

/** Forward overwrites y, as the layer of a model does; backward adds to dx, as for the adapters alone. */
const OVERWRITE = { accumulate: false }

export const frozenLayer =
  (weight: PackedLinear): Bind =>
  ({ x, y, dy, dx }) => ({
    forward: () => {
      linearForward({ x, weight, y }, OVERWRITE)
    },
    'forward+backward': () => {
      linearForward({ x, weight, y }, OVERWRITE)
      linearBackward({ dy, weight, dx })
    },
  })

export function lilyLayer(benchCase: Case, parameters: LilyParameters, weight: PackedLinear): Bind {
  const { router, dRouter, da, db, a, b } = parameters
  const { isRouted, ...options } = lilyOptions(benchCase)
  return ({ x, y, dy, dx }) => {
    const operands = { x, weight, y, a, b, ...(isRouted ? { router } : {}) }
    const gradients = { dy, dx, da, db, ...(isRouted ? { dRouter } : {}) }
    const forward = () => lilyForward(operands, { ...options, ...OVERWRITE }).saved
    return {
      forward: () => forward().dispose(),
      'forward+backward': () => {
        const saved = forward()
        lilyBackward(gradients, saved)
        saved.dispose()
      },
    }
  }
}

export const loraLayer =
  ({ a, b, da, db }: LoraParameters, weight: PackedLinear): Bind =>
  ({ x, y, dy, dx }) => {
    const forward = () => loraForward({ x, weight, a, b, y }, OVERWRITE).saved
    return {
      forward: () => forward().dispose(),
      'forward+backward': () => {
        const saved = forward()
        loraBackward({ dy, dx, da, db }, saved)
        saved.dispose()
      },
    }
  }
