/** Lily with pooled routing as separate steps: shrink, route, combine the experts of every group, expand. */
import { tensor, type Tensor } from '../../../lib/index.js'
import { decode, encode } from '../../workload/dtypes.js'
import { zeros } from '../../workload/operands.js'
import { sequenceOffsets } from '../../workload/sequences.js'
import type { LilyOperands, LilySteps } from './lily-operands.js'
import { meanRows, softmaxBackward, softmaxRows } from './routing.js'
import { Combination, Expansion, Product } from './steps.js'

function rows({ data, dtype, shape }: Tensor, begin: number, end: number): Tensor {
  const columns = shape[1]
  const view = (data as Float32Array).subarray(begin * columns, end * columns)
  return tensor(view, [end - begin, columns], dtype)
}

export function pooledSteps({ activations, parameters, types, routing, weights }: LilyOperands): LilySteps {
  const { x, y, dy, dx } = activations
  const { a, router, b, da, dRouter, db } = parameters
  const [tokens, d] = x.shape as [number, number]
  const [experts, rank] = b.shape as [number, number]
  const type = types.activations
  const isRouted = routing === 'batch' || routing === 'sequence'
  const isLearned = routing === 'learned'
  const offsets = routing === 'sequence' ? sequenceOffsets(tokens) : Int32Array.of(0, tokens)

  const shrink = new Product(tokens, a, type)
  const logits = new Product(tokens, router, type)
  const dHidden = zeros([tokens, rank], type)
  const dLogits = new Float32Array(tokens * experts)
  const dCombined = zeros([1, rank * d], types.parameters)
  const groups = Array.from(offsets.subarray(1), (end, g) => {
    const begin = offsets[g]
    const combination = new Combination(b, types.parameters)
    const expansion = new Expansion(rows(shrink.out, begin, end), combination.combined, rows(y, begin, end))
    return { begin, end, combination, expansion, dy: rows(dy, begin, end), dHidden: rows(dHidden, begin, end) }
  })
  const givenWeights = routing === 'fixed' ? weights : new Float32Array(experts).fill(1 / experts)
  let probs = new Float32Array(0)

  const weightsOf = (group: { begin: number; end: number }): Float32Array =>
    isRouted ? meanRows(probs, experts, group) : isLearned ? probs : givenWeights

  const forward = (): void => {
    shrink.forward(x)
    if (isLearned) {
      probs = Float32Array.from(decode(router.data as Float32Array, types.parameters))
      softmaxRows(probs, experts)
    }
    if (isRouted) {
      logits.forward(shrink.out)
      probs = Float32Array.from(decode(logits.out.data as Float32Array, type))
      softmaxRows(probs, experts)
    }
    for (const group of groups) {
      group.combination.forward(weightsOf(group))
      group.expansion.forward()
    }
  }
  const backward = (): void => {
    for (const group of groups) {
      group.expansion.backward(group.dy, group.dHidden, dCombined, false)
      group.combination.addDb(dCombined, db)
      if (!isRouted && !isLearned) continue
      const [rows, scale] = isLearned ? [{ begin: 0, end: 1 }, 1] : [group, 1 / (group.end - group.begin)]
      softmaxBackward(dLogits, probs, group.combination.dWeights(dCombined), experts, rows, scale)
    }
    if (isLearned) {
      const sums = decode(dRouter.data, types.parameters).map((old, e) => old + dLogits[e])
      dRouter.data.set(encode(sums, types.parameters))
    }
    if (isRouted) {
      const dOut = tensor(encode(dLogits, type), [tokens, experts], type)
      logits.addDx(dOut, dHidden)
      logits.addDa(dOut, dRouter)
    }
    shrink.addDx(dHidden, dx)
    shrink.addDa(dHidden, da)
  }
  const dispose = (): void => {
    for (const { combination, expansion } of groups) {
      combination.dispose()
      expansion.dispose()
    }
    logits.dispose()
    shrink.dispose()
  }
  return { forward, backward, dispose }
}
