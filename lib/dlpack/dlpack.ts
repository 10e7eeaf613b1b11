/**
 * DLPack (https://github.com/dmlc/dlpack): tensors that addons give each other without a copy. docs/interop.md describes
 * the capsule and who owns what.
 */
import { bytesPerElement, type DType, viewOf } from '../base/dtype.js'
import { countOf, describe, fail } from '../base/errors.js'
import { type Known, readProperties } from '../base/options.js'
import { bound } from '../binding/errors.js'
import { type DLPackTensor, native } from '../binding/native.js'
import { backend } from '../binding/slots.js'
import { refuseInCapture } from '../memory/capture.js'
import { CPU, cudaDevice, type Device, deviceText, refuseWebGpu } from '../memory/device.js'
import { addExchanged, refuseShrinking } from '../memory/host-memory.js'
import { boundMemory, isHostMemory } from '../memory/operand-memory.js'
import { checkMemory, layOut, type Operand } from '../memory/operand.js'
import type { StreamOption } from '../memory/placement.js'
import { StreamState } from '../memory/stream-state.js'
import { contiguousStrides } from '../tensor/layout.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Stream } from '../tensor/stream.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'

/** Options of {@link toDLPack} and {@link fromDLPack}. */
export interface DLPackOptions {
  /**
   * For device memory: a stream, or its cudaStream_t. `toDLPack`: the stream in which the consumer uses the memory; its
   * later work runs after the work that is enqueued on the tensor so far. Default: CUDA's legacy stream. `fromDLPack`: the
   * stream in which the producer last wrote the memory. Default: the memory is ready to use.
   */
  readonly stream?: Stream | bigint | number | undefined
}

const OPTIONS: Known = new Set(['stream'])

/** Type codes and bits of dlpack.h. */
const [INT, UINT, FLOAT, BFLOAT, BOOL] = [0, 1, 2, 4, 6]
const TYPES: Readonly<Record<DType, readonly [code: number, bits: number]>> = {
  float32: [FLOAT, 32],
  float16: [FLOAT, 16],
  bfloat16: [BFLOAT, 16],
  int32: [INT, 32],
  uint8: [UINT, 8],
}
/** Device types of dlpack.h. */
const [KDL_CPU, KDL_CUDA, KDL_CUDA_HOST] = [1, 2, 3]
/** cudaStreamLegacy. */
const LEGACY_STREAM = 1

/**
 * Gives a tensor to another addon, without a copy: a DLManagedTensorVersioned of DLPack 1.x in an External of Node-API,
 * the capsule. One consumer takes it. The memory is kept until the consumer calls the deleter, which it may do in any
 * thread, or until a capsule that was not consumed is garbage-collected; it is released in a later turn of the event loop.
 *
 * What Node.js cannot prevent: memory of the host must not be transferred to another thread, and the thread that exports a
 * tensor must not end, while the consumer has it.
 *
 * @param tensor any operand of any shape, on the host or on a CUDA device
 * @returns the capsule
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_CUDA; ERR_LILY_BACKEND_UNAVAILABLE if the runtime does not tag Externals
 * @example
 * const capsule = toDLPack(tensor([1, 2, 3, 4], [2, 2]))
 * addon.consume(capsule)
 */
export function toDLPack(tensor: TensorLike, options: DLPackOptions = {}): object {
  const stream = readProperties('options', options, OPTIONS, (given) => readStream(given.stream, undefined))
  const operand = resolve('tensor', tensor)
  refuseWebGpu('tensor', 'toDLPack', operand.device)
  checkMemory('tensor', operand)
  const { memory, device, dtype, byteOffset, shape } = operand
  if (isHostMemory(memory)) {
    refuseStream(stream)
    refuseShrinking('tensor', memory, 'while another addon uses it')
    addExchanged(memory.buffer)
  } else {
    orderAfter(operand, stream)
  }
  const [code, bits] = TYPES[dtype]
  const strides = operand.strides ?? contiguousStrides(shape)
  const numbers = [
    backend[device.type === 'cpu' ? 'cpu' : 'cuda'],
    device.id,
    byteOffset,
    code,
    bits,
    operand.isReadOnly ? 1 : 0,
    ...shape,
    ...strides,
  ]
  const exported = operand.share() // a reference of its own to memory of a device
  const release = () => {
    exported.dispose()
  }
  try {
    return bound(() => native.dlpackExport(Float64Array.from(numbers), boundMemory(exported.memory), release))
  } catch (error) {
    release()
    throw error
  }
}

/**
 * Takes the tensor out of a DLPack capsule, without a copy. A capsule can be taken once. Its deleter is called when the
 * returned tensor, and everything that uses its memory, is garbage-collected.
 *
 * A tensor whose producer says that it is read-only is refused as an output. JavaScript cannot protect its `data`: writing
 * to it is undefined behaviour.
 *
 * @param capsule an External of Node-API, tagged as docs/interop.md describes, of float32, float16, bfloat16, int32, uint8
 *   or bool (as uint8), with at least one dimension and rows that operands may have, in memory of the host or of a CUDA
 *   device
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_BACKEND_UNAVAILABLE: the
 *   capsule keeps its tensor, unless that is of another major version of DLPack; such a tensor is given back to its
 *   producer
 * @returns a tensor with the shape that the capsule says
 * @example
 * const x = fromDLPack(addon.produce())
 */
export function fromDLPack(capsule: unknown, options: DLPackOptions = {}): Tensor {
  const stream = readProperties('options', options, OPTIONS, (given) => readStream(given.stream, undefined))
  const described = bound(() => native.dlpackRead(capsule))
  const dtype = dtypeOf(described)
  const device = deviceOf(described)
  const { address, shape, strides } = described
  if (address % BigInt(bytesPerElement(dtype)) !== 0n) {
    fail(
      'ERR_LILY_ARGUMENT',
      'capsule',
      `expected elements at multiples of ${bytesPerElement(dtype)} bytes, the size of ${dtype}, got address ${address}`,
    )
  }
  const place = layOut('capsule', address, 0, dtype, device, shape, strides)
  const operand = device === CPU ? takeOnHost(capsule, place, stream) : takeOnDevice(capsule, place, stream)
  operand.isReadOnly = described.isReadOnly
  return tensorOf(operand)
}

/** @param place the shape of the operand */
function takeOnHost(capsule: unknown, { dtype, shape, strides, byteLength }: Operand, stream: StreamOption): Operand {
  refuseStream(stream)
  const buffer = bound(() => native.dlpackTake(capsule)) as ArrayBuffer
  addExchanged(buffer)
  return layOut('capsule', viewOf(dtype, buffer, 0, byteLength / bytesPerElement(dtype)), 0, dtype, CPU, shape, strides)
}

/** @param operand over the address of the tensor */
function takeOnDevice(capsule: unknown, operand: Operand, stream: StreamOption): Operand {
  checkMemory('capsule', operand)
  if (stream !== null) operand.stream = typeof stream === 'number' ? StreamState.of(operand.device, stream) : stream
  operand.owner = bound(() => native.dlpackTake(capsule))
  return operand
}

function dtypeOf({ code, bits, lanes }: DLPackTensor): DType {
  if (lanes === 1 && code === BOOL && bits === 8) return 'uint8'
  for (const [name, [ownCode, ownBits]] of Object.entries(TYPES)) {
    if (lanes === 1 && code === ownCode && bits === ownBits) return name as DType
  }
  return fail(
    'ERR_LILY_DTYPE',
    'capsule',
    `expected float32, float16 or bfloat16 (uint8 or bool for masks, int32 for offsets), got type code ${code} of ` +
      `${countOf(bits, 'bit')} and ${countOf(lanes, 'lane')}; convert it`,
  )
}

function deviceOf({ deviceType, deviceId }: DLPackTensor): Device {
  if (deviceType === KDL_CPU || deviceType === KDL_CUDA_HOST) return CPU
  if (deviceType === KDL_CUDA && deviceId >= 0) return cudaDevice(deviceId)
  return fail(
    'ERR_LILY_DEVICE',
    'capsule',
    `expected memory of the host (device type ${KDL_CPU} or ${KDL_CUDA_HOST}) or of a CUDA device (${KDL_CUDA}), got ` +
      `device type ${deviceType} with ID ${deviceId}; copy it to one of them`,
  )
}

/** Orders the later work of a consumer's stream after the work that is enqueued on an operand so far. */
function orderAfter({ device, stream: own }: Operand, stream: StreamOption): void {
  refuseInCapture('toDLPack()', 'call it before captureGraph()')
  if (typeof stream === 'object' && stream !== null && stream.device !== device) {
    fail(
      'ERR_LILY_DEVICE',
      'stream',
      `expected a stream of ${deviceText(device)}, got one of ${deviceText(stream.device)}`,
    )
  }
  const consumer = stream ?? LEGACY_STREAM
  const handle = typeof consumer === 'number' ? consumer : consumer.cudaStream
  if (own === null || (own.device === device && own.cudaStream === handle)) return
  bound(() => {
    native.streamOrder(own.device.id, own.cudaStream, device.id, handle)
  })
}

function refuseStream(stream: StreamOption): void {
  if (stream === null) return
  const got = typeof stream === 'number' ? describe(stream) : 'a Stream'
  fail('ERR_LILY_ARGUMENT', 'stream', `expected none for memory of the host, which has no streams, got ${got}`)
}
