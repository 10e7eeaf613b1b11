/** LoRA in two steps: h = x a^T, y += h b^T. */
import { loraBackward, loraForward, type LoraSaved } from '../../lib/index.js'
import type { DTypes } from '../dtypes.js'
import { type Activations, type LoraParameters, zeros } from '../operands.js'
import type { Calls } from '../report.js'
import { identity, Product } from './steps.js'

export function composedLora(
  { x, y, dy, dx }: Activations,
  { a, b, da, db }: LoraParameters,
  { activations, parameters }: DTypes,
): Calls {
  const [tokens] = x.shape
  const [rank] = a.shape
  const shrink = new Product(tokens, a, activations)
  const factor = identity(rank, parameters)
  const dh = zeros([tokens, rank], activations)

  const run = (): LoraSaved => {
    shrink.forward(x)
    return loraForward({ x: shrink.out, a: factor, b, y }).saved
  }
  const end = (saved: LoraSaved): void => {
    saved.dispose()
    shrink.dispose()
  }
  return {
    forward: () => end(run()),
    'forward+backward': () => {
      const expand = run()
      loraBackward({ dy, dx: dh }, expand, { needs: { dx: true, da: false, db: false }, accumulate: false })
      loraBackward({ dy, db }, expand, { needs: { dx: false, da: false, db: true } })
      shrink.addDx(dh, dx)
      shrink.addDa(dh, da)
      end(expand)
    },
  }
}
