/** Reads CUDA memory that another library owns. */
import { bytesPerElement, readDType } from '../base/dtype.js'
import { describe, fail } from '../base/errors.js'
import type { Known } from '../base/options.js'
import { readIntegers, shapeText } from '../base/shape.js'
import { cudaDevice, type Device } from '../memory/device.js'
import { layOut, type Operand } from '../memory/operand.js'
import { StreamState } from '../memory/stream-state.js'
import { checkFields, readLayout, type Unknown } from './layout.js'
import { readStreamHandle } from './stream.js'

const DEVICE_FIELDS: Known = new Set([
  'ptr',
  'shape',
  'dtype',
  'device',
  'strides',
  'byteOffset',
  'byteLength',
  'stream',
  'owner',
  'stride',
  'offset',
])

/** @param keeper the object that the caller passed, kept reachable together with its `owner` */
export function readCudaMemory(
  argument: string,
  value: Unknown,
  ptr: unknown,
  given: unknown,
  keeper: unknown,
): Operand {
  if (typeof ptr !== 'bigint' && !Number.isSafeInteger(ptr)) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected ptr to be an address, as a bigint or an integer, got ${describe(ptr)}`,
    )
  }
  checkFields(argument, value, DEVICE_FIELDS)
  const address = BigInt(ptr as bigint | number)
  if (address < 0n || address >= 1n << 64n)
    fail('ERR_LILY_ARGUMENT', argument, `expected ptr to be an address below 2^64, got ${address}`)
  const dtype = readDType(argument, value.dtype)
  const shape = readIntegers(argument, 'shape', value.shape)
  const { strides, byteOffset } = readLayout(argument, value, shape.length, dtype)
  const device = readDevice(argument, given)
  const byteLength = value.byteLength
  const stream = value.stream
  const owner = value.owner
  const operand = layOut(argument, address, byteOffset, dtype, device, shape, strides)
  if (stream !== undefined) operand.stream = StreamState.of(device, readStreamHandle(argument, stream))
  operand.owner = owner === undefined ? keeper : [keeper, owner]

  if (address % BigInt(bytesPerElement(dtype)) !== 0n) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected ptr to be a multiple of ${bytesPerElement(dtype)}, the size of ${dtype}, got ${address}`,
    )
  }
  if (byteLength !== undefined && !(byteOffset + operand.byteLength <= Number(byteLength))) {
    fail(
      'ERR_LILY_SHAPE',
      argument,
      `expected byteLength of at least ${byteOffset + operand.byteLength} for shape ${shapeText(shape)} of ${dtype}, ` +
        `got ${describe(byteLength)}`,
    )
  }
  return operand
}

function readDevice(argument: string, device: unknown): Device {
  const { type, id } = (typeof device === 'object' && device !== null ? device : {}) as Unknown
  if (type !== 'cuda' || !Number.isSafeInteger(id) || (id as number) < 0) {
    fail(
      'ERR_LILY_DEVICE',
      argument,
      `expected device { type: 'cuda', id } with ptr, got type ${describe(type)} and id ${describe(id)}` +
        (type === 'cpu' ? '; pass memory of the host as { data }, a typed array over it' : ''),
    )
  }
  return cudaDevice(id as number)
}
