/** Project, route, mix the experts of every group, expand: all routings but token. */
import { tensor, type Tensor } from '../../lib/index.js'
import { decode, encode } from '../dtypes.js'
import { zeros } from '../operands.js'
import { sequenceOffsets } from '../sequences.js'
import type { Composed, Operands } from './lily.js'
import { meanRows, softmaxBackward, softmaxRows } from './routing.js'
import { Expansion, Mixture, Product } from './steps.js'

function rows({ data, dtype, shape }: Tensor, begin: number, end: number): Tensor {
  const columns = shape[1]
  const part = (data as Float32Array).subarray(begin * columns, end * columns)
  return tensor(part, [end - begin, columns], dtype)
}

export function composedPooled({ activations, parameters, types, routing, weights }: Operands): Composed {
  const { x, y, dy, dx } = activations
  const { a, router, b, da, dRouter, db } = parameters
  const [tokens, d] = x.shape as [number, number]
  const [experts, rank] = router.shape as [number, number]
  const type = types.activations
  const isRouted = routing === 'batch' || routing === 'sequence'
  const offsets = routing === 'sequence' ? sequenceOffsets(tokens) : Int32Array.of(0, tokens)

  const shrink = new Product(tokens, a, type)
  const logits = new Product(tokens, router, type)
  const dh = zeros([tokens, rank], type)
  const dl = new Float32Array(tokens * experts)
  const dc = zeros([1, rank * d], types.parameters)
  const groups = Array.from(offsets.subarray(1), (end, g) => {
    const begin = offsets[g]
    const mixture = new Mixture(b, types.parameters)
    const expansion = new Expansion(rows(shrink.out, begin, end), mixture.c, rows(y, begin, end))
    return { begin, end, mixture, expansion, dy: rows(dy, begin, end), dh: rows(dh, begin, end) }
  })
  const unrouted = routing === 'fixed' ? weights : new Float32Array(experts).fill(1 / experts)
  let p = new Float32Array(0)

  const forward = (): void => {
    shrink.forward(x)
    if (isRouted) {
      logits.forward(shrink.out)
      p = Float32Array.from(decode(logits.out.data as Float32Array, type))
      softmaxRows(p, experts)
    }
    for (const { begin, end, mixture, expansion } of groups) {
      mixture.forward(isRouted ? meanRows(p, experts, begin, end) : unrouted)
      expansion.forward()
    }
  }
  const dispose = (): void => {
    for (const { mixture, expansion } of groups) {
      mixture.dispose()
      expansion.dispose()
    }
    logits.dispose()
    shrink.dispose()
  }
  const backward = (): void => {
    for (const group of groups) {
      group.expansion.backward(group.dy, group.dh, dc, false)
      group.mixture.addDb(dc, db)
      if (!isRouted) continue
      const { begin, end } = group
      softmaxBackward(dl, p, group.mixture.dw(dc), experts, begin, end, 1 / (end - begin))
    }
    if (isRouted) {
      const dLogits = tensor(encode(dl, type), [tokens, experts], type)
      logits.addDx(dLogits, dh)
      logits.addDa(dLogits, dRouter)
    }
    shrink.addDx(dh, dx)
    shrink.addDa(dh, da)
  }
  return {
    forward: () => {
      forward()
      dispose()
    },
    both: () => {
      forward()
      backward()
      dispose()
    },
  }
}
