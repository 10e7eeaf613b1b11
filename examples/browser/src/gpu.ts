/** Opening a GPUDevice. */

export interface Gpu {
  readonly device: GPUDevice
  /** The adapter as its driver describes it. */
  readonly name: string
  /** Whether the adapter is a program on the CPU: its times say nothing about a GPU. */
  readonly isSoftware: boolean
}

/** Why there is no device. */
export class NoGpu extends Error {}

/**
 * Requests a device with the largest buffers that the adapter allows, and with timestamps if it has them.
 *
 * @throws NoGpu with a message for the reader
 */
export async function openGpu(): Promise<Gpu> {
  if (!isSecureContext) {
    throw new NoGpu(
      'Browsers offer WebGPU to pages of https: and of localhost only. Open this page by such an address.',
    )
  }
  const { gpu } = navigator as { readonly gpu?: GPU }
  if (gpu === undefined) {
    throw new NoGpu(
      'This browser has no WebGPU, or it is turned off. A current Chrome, Edge, Firefox or Safari may have it.',
    )
  }
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (adapter === null) {
    throw new NoGpu(
      'This browser has WebGPU, but it found no GPU that it may use: there is none, its driver is missing or blocked, or ' +
        'hardware acceleration is turned off in the settings of the browser.',
    )
  }
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits
  let device: GPUDevice
  try {
    device = await adapter.requestDevice({
      requiredFeatures: adapter.features.has('timestamp-query') ? ['timestamp-query'] : [],
      requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
    })
  } catch (error) {
    throw new NoGpu(`This browser found a GPU, but gave no device of it: ${String(error)}`, { cause: error })
  }
  const { vendor, architecture, device: model, description } = adapter.info
  const words = [...new Set([vendor, architecture, model, description])].filter((word) => word !== '')
  const name = words.join(' ')
  return {
    device,
    name: name === '' ? 'a GPU that the browser does not name' : name,
    isSoftware: /software|swiftshader|llvmpipe|basic render/i.test(name),
  }
}
