/** Reads GPUBuffers and GPUDevices that the caller passes. */
import { describe, fail } from '../base/errors.js'
import { webGpu, type WebGpuBinding, webGpuBinding } from '../binding/devices.js'

/** GPUBufferUsage.STORAGE; a runtime without the global object may have the devices. */
const STORAGE = 0x80

type Unknown = Readonly<Record<string, unknown>>

/** Whether a value is an object with members of these types: WebGPU has implementations of several classes. */
export function hasMembers(value: unknown, types: Readonly<Record<string, string>>): boolean {
  if (typeof value !== 'object' || value === null) return false
  return Object.entries(types).every(([name, type]) => typeof (value as Unknown)[name] === type)
}

const BUFFER = { size: 'number', usage: 'number', mapState: 'string', destroy: 'function' }

/** Whether a value is a GPUBuffer of any implementation of WebGPU. */
export function isGpuBuffer(value: unknown): value is GPUBuffer {
  return hasMembers(value, BUFFER)
}

/**
 * Checks a buffer that kernels will access. Its length is checked with the other properties of memory, by `checkMemory`.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function checkGpuBuffer(argument: string, buffer: unknown): asserts buffer is GPUBuffer {
  if (!isGpuBuffer(buffer)) {
    fail('ERR_LILY_ARGUMENT', argument, `expected buffer to be a GPUBuffer, got ${describe(buffer)}`)
  }
  if ((buffer.usage & STORAGE) === 0) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      'expected a GPUBuffer with GPUBufferUsage.STORAGE among its usages, got one without; create it with that usage',
    )
  }
}

/**
 * The GPUDevice of a buffer, which WebGPU does not tell: the one that the operand names, the one whose `createLily`
 * object runs the call, or the only one.
 *
 * @throws LilyError ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE
 */
export function gpuOf(argument: string, device: unknown): WebGpuBinding {
  const { bindings, current } = webGpu
  if (device !== undefined) {
    const { type, id } = (typeof device === 'object' && device !== null ? device : {}) as Unknown
    if (type !== 'webgpu' || !Number.isSafeInteger(id)) {
      const got = `type ${describe(type)} and id ${describe(id)}`
      fail('ERR_LILY_DEVICE', argument, `expected the \`device\` of a createLily object with buffer, got ${got}`)
    }
    return webGpuBinding(argument, id as number)
  }
  if (current !== null) return current
  const [only] = bindings.values()
  if (bindings.size === 1 && only !== undefined) return only
  return fail(
    'ERR_LILY_DEVICE',
    argument,
    bindings.size === 0
      ? 'no GPUDevice is registered; call createLily(gpuDevice) of lily-kernels/webgpu first'
      : `${bindings.size} GPUDevices are registered; call a function of the right createLily object, or pass its \`device\` ` +
          'beside buffer',
  )
}
