/**
 * The binding of lily-kernels/webgpu, which has this file in the place of load.ts: no native code, and no backend but the
 * GPUDevices of devices.ts.
 */
import type { Binding, NativeBackend } from './native.js'

const reason = 'lily-kernels/webgpu has no native code; the main package, lily-kernels, has the other backends'

/** What calls on a GPUDevice need of the addon. Operands anywhere else are refused before they reach it. */
const binding: Pick<Binding, 'backends'> = {
  backends: () =>
    (['cpu', 'cuda'] as const).map((name): NativeBackend => ({ name, available: false, reason, devices: [] })),
}

export function loadBinding(): Binding {
  return binding as Binding
}
