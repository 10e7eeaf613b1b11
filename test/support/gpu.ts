/** A WebGPU device for tests: Dawn for Node.js, on Mesa's software adapter unless the environment names another driver. */
import { existsSync } from 'node:fs'

const SOFTWARE_DRIVER = '/usr/share/vulkan/icd.d/lvp_icd.json'

/** Why there is no device, or a function that makes one. */
export async function openGpu(): Promise<string | (() => Promise<GPUDevice>)> {
  if (process.env.VK_DRIVER_FILES === undefined) {
    if (!existsSync(SOFTWARE_DRIVER)) return `no software adapter: ${SOFTWARE_DRIVER} of Mesa is missing`
    process.env.VK_DRIVER_FILES = SOFTWARE_DRIVER
  }
  // Its compiler takes most of the time of the tests, and half as long without optimisation and with short vectors.
  process.env.GALLIVM_PERF ??= 'nopt'
  process.env.LP_NATIVE_VECTOR_WIDTH ??= '128'
  let dawn: typeof import('webgpu')
  try {
    dawn = await import('webgpu')
  } catch (error) {
    return `the package webgpu does not load: ${String(error)}`
  }
  Object.assign(globalThis, dawn.globals)
  const gpu = dawn.create([])
  const adapter = await gpu.requestAdapter()
  if (adapter === null) return 'Dawn finds no adapter'
  let used = false
  return async () => {
    // An adapter makes one device.
    const of = used ? await gpu.requestAdapter() : adapter
    used = true
    if (of === null) throw new Error('Dawn finds no adapter any more')
    const device = await of.requestDevice()
    device.onuncapturederror = ({ error }) => {
      throw new Error(`WebGPU: ${error.message}`)
    }
    return device
  }
}
