/** What a call costs besides its kernels. */
import { lilyBackward, lilyForward } from '../lib/index.js'
import { hostClock, type Limits, sampleInTurn, timingOf } from './measure.js'
import { filled, zeros } from './operands.js'

/** Seconds. */
export interface Overhead {
  readonly forward: number
  readonly backward: number
}

/**
 * Whole calls on the cpu whose kernels have next to nothing to do: an upper bound of what validation, binding and
 * allocation cost.
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
    lilyBackward(gradients, saved)
  }
  for (let warm = 0; warm < 20_000; warm++) {
    forward()
    backward()
  }
  const [ofForward, ofBackward] = await sampleInTurn([forward, backward], hostClock, limits)
  return { forward: timingOf(ofForward).median, backward: timingOf(ofBackward).median }
}
