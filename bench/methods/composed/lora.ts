/** LoRA in two steps: hidden = x a^T, y += hidden b^T. */
import { loraBackward, loraForward, type LoraSaved } from '../../../lib/index.js'
import type { DTypes } from '../../workload/dtypes.js'
import { type Activations, type LoraParameters, zeros } from '../../workload/operands.js'
import type { Calls } from '../methods.js'
import { identity, Product } from './steps.js'

export function composedLora(
  { x, y, dy, dx }: Activations,
  { a, b, da, db }: LoraParameters,
  { activations, parameters }: DTypes,
): Calls {
  const [tokens] = x.shape
  const [rank] = a.shape
  const shrink = new Product(tokens, a, activations)
  const unusedFactor = identity(rank, parameters)
  const dHidden = zeros([tokens, rank], activations)

  const forward = (): LoraSaved => {
    shrink.forward(x)
    return loraForward({ x: shrink.out, a: unusedFactor, b, y }).saved
  }
  const dispose = (saved: LoraSaved): void => {
    saved.dispose()
    shrink.dispose()
  }
  return {
    forward: () => dispose(forward()),
    'forward+backward': () => {
      const expand = forward()
      const needs = { dx: true, da: false, db: false }
      loraBackward({ dy, dx: dHidden }, expand, { needs, accumulate: false, retain: true })
      loraBackward({ dy, db }, expand, { needs: { dx: false, da: false, db: true } })
      shrink.addDx(dHidden, dx)
      shrink.addDa(dHidden, da)
      dispose(expand)
    },
  }
}
