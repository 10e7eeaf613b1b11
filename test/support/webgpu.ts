/**
 * The GPUDevice of the tests of WebGPU, a setup file of their project: Dawn for Node.js on
 * any adapter that Vulkan has, without a GPU the software adapter of Mesa.
 */
import { create, globals } from 'webgpu'
import { afterAll, afterEach, expect } from 'vitest'
import { createLily } from '../../lib/webgpu/index.js'
import { setGpu } from './gpu-device.js'

Object.assign(globalThis, globals)

// While a promise is pending, Dawn asks the device in a loop of setImmediate, on one of the processors that Mesa computes on.
// Once a millisecond is enough.
globalThis.setImmediate = ((callback: (...args: unknown[]) => void, ...args: unknown[]) =>
  setTimeout(callback, 1, ...args)) as unknown as typeof setImmediate

// Kept: Dawn crashes when its instance is collected before the devices.
const gpu = create([])
const adapter = await gpu.requestAdapter()
if (adapter === null) throw new Error('Dawn finds no adapter')
const device = await adapter.requestDevice()
// What the package encodes is valid: an error that nobody has asked for is a defect.
const errors: string[] = []
device.addEventListener('uncapturederror', ({ error }) => {
  errors.push(error.message)
})
afterEach(() => {
  expect(errors.splice(0)).toEqual([])
})
setGpu({ gpu, device, lily: createLily(device) })
// Dawn keeps the process alive as long as a device exists.
afterAll(() => {
  device.destroy()
})
