/** The file of lily-kernels/webgpu in the place of launch.ts: all its calls run on a GPUDevice. */
import type * as addon from './launch.js'

function launch(): void {
  throw new Error('lily-kernels/webgpu has no addon')
}

export const launchForward: typeof addon.launchForward = launch
export const launchBackward: typeof addon.launchBackward = launch
export const launchFold: typeof addon.launchFold = launch
export const launchLinear: typeof addon.launchLinear = launch
