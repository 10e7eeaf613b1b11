/**
 * The binding of lily-kernels/webgpu, which has this file in the place of load.ts: no native code, and no backend but the
 * GPUDevices of devices.ts.
 */
import type { Binding, NativeBackend } from './native.js'
import { activation, dtype, pool, precision, roof, routing } from './wasm/abi.js'

const constants = { backend: { cpu: 0, cuda: 1 }, dtype, routing, pool, activation, precision, roof }
const reason = 'lily-kernels/webgpu has no native code; the main package, lily-kernels, has the other backends'

/** What calls on a GPUDevice need of the addon. Operands anywhere else are refused before they reach it. */
const binding: Pick<Binding, 'constants' | 'backends' | 'emptyCache'> = {
  constants,
  backends: () =>
    (['cpu', 'cuda'] as const).map((name): NativeBackend => ({ name, available: false, reason, devices: [] })),
  emptyCache: () => undefined,
}

export function loadBinding(): Binding {
  return binding as Binding
}
