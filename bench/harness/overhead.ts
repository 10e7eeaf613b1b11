/** The cost of a call besides its kernels. */
import { lilyBackward, lilyForward } from '../../lib/index.js'
import { filled, zeros } from '../workload/operands.js'
import { hostClock, type Limits, sampleInterleaved, timingOf } from './sampling.js'

/** In seconds. */
export interface Overhead {
  readonly forward: number
  readonly backward: number
}

/**
 * Measures whole calls on the cpu backend whose kernels have almost no work. The result is an upper bound of the cost of
 * validation, binding and allocation.
 */
export async function measureOverhead(limits: Limits): Promise<Overhead> {
  const operands = {
    x: filled([1, 8], 1),
    a: filled([4, 8], 1),
    router: filled([2, 4], 1),
    b: filled([2, 4, 8], 1),
    y: zeros([1, 8]),
  }
  const gradients = {
    dy: filled([1, 8], 1),
    dx: zeros([1, 8]),
    da: zeros([4, 8]),
    dRouter: zeros([2, 4]),
    db: zeros([2, 4, 8]),
  }
  const { saved } = lilyForward(operands)
  const forward = (): void => {
    lilyForward(operands)
  }
  const backward = (): void => {
    lilyBackward(gradients, saved, { retain: true })
  }
  for (let warmup = 0; warmup < 20_000; warmup++) {
    forward()
    backward()
  }
  const [forwardSamples, backwardSamples] = await sampleInterleaved(
    [forward, backward].map((run) => (calls) => hostClock(run, calls)),
    limits,
  )
  return { forward: timingOf(forwardSamples).median, backward: timingOf(backwardSamples).median }
}
