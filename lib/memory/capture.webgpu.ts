/** The file of lily-kernels/webgpu in the place of capture.ts: it captures nothing, but the main package may. */
import { shared } from '../base/copies.js'
import { fail } from '../base/errors.js'

const holder = shared('capture', () => ({ current: null as object | null }))

export function refuseInCapture(what: string, advice: string): void {
  if (holder.current !== null) fail('ERR_LILY_ARGUMENT', 'fn', `${what} cannot be part of a graph; ${advice}`)
}

/** Calls on a GPUDevice are refused inside a capture, so that none is a part of one. */
export const Capture = { current: null }
