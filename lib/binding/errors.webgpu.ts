/** The file of lily-kernels/webgpu in the place of errors.ts: the binding of a GPUDevice throws LilyErrors only. */
import type * as addon from './errors.js'

export const fromBinding: typeof addon.fromBinding = (cause) => cause
export const bound: typeof addon.bound = (call) => call()
export const settled: typeof addon.settled = (promise) => promise
