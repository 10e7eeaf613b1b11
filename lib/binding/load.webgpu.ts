/**
 * The binding of lily-kernels/webgpu, which has this file in the place of load.ts: no native code, and no backend but the
 * GPUDevices of devices.ts. Operands anywhere else are refused before they reach it.
 */
import type { Binding } from './native.js'

export const loadBinding = (): Binding => ({}) as Binding
