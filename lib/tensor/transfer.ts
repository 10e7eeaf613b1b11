/** Copies between host and device memory. */
import { bytesOf, bytesPerElement, type HostData, plainView } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { settled } from '../binding/errors.js'
import { allocateOnHost } from '../memory/allocate.js'
import { refuseInCapture } from '../memory/capture.js'
import { CPU, type Device, deviceText } from '../memory/device.js'
import { boundMemory, gpuBufferOf, isDeviceMemory, isHostMemory } from '../memory/operand-memory.js'
import { layOut, layOutOnDevice, layOutOnHost, type Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import { reported } from '../memory/reports.js'
import { copyRows } from './numbers.js'

/**
 * Enqueues a contiguous copy of an operand to a device; the copy belongs to the default stream of that device. A source
 * in host memory has been read when this returns.
 */
export function copyToDevice(operand: Operand, device: Device): Operand {
  const { dtype, shape, rows, columns, pitch, memory } = operand
  refuseOtherDevice(operand, device)
  const placement = placementOn(device, operand)
  const rowBytes = columns * bytesPerElement(dtype)
  const target = placement.allocate('device', rows * rowBytes)
  const { binding } = placement
  const { id } = device
  const { cudaStream } = placement.stream
  placement.run(() => {
    if (isHostMemory(memory)) {
      binding.upload(id, target.handle, 0, bytesOf(compact(operand)), cudaStream)
      return
    }
    const contiguous = rows <= 1 || pitch === columns
    const source = boundMemory(operand.memory)
    const copy = (to: number, from: number, bytes: number) => {
      binding.copy(id, target.handle, to, operand.device.id, source, operand.byteOffset + from, bytes, cudaStream)
    }
    if (contiguous) copy(0, 0, rows * rowBytes)
    else for (let row = 0; row < rows; row++) copy(row * rowBytes, row * pitch * bytesPerElement(dtype), rowBytes)
  })
  return layOutOnDevice('device', target, 0, dtype, shape)
}

/** Buffers of a GPUDevice can be copied within that device only. */
function refuseOtherDevice(operand: Operand, target: Device): void {
  const source = operand.device
  if (source === CPU || source === target || (source.type === 'cuda' && target.type === 'cuda')) return
  fail(
    'ERR_LILY_DEVICE',
    'device',
    `expected ${deviceText(source)}, where the tensor is, got ${deviceText(target)}; await its toHost() and copy that`,
  )
}

/** A contiguous copy, in host memory, of an operand in host memory. */
export function copyOnHost(operand: Operand): Operand {
  return layOutOnHost('copy', copyRows(operand), operand.dtype, operand.shape)
}

/** A contiguous copy, in host memory, of an operand in device memory, made once the work enqueued on it is complete. */
export async function copyToHost(operand: Operand): Promise<Operand> {
  const { dtype, shape, rows, columns, pitch, device } = operand
  const elements = operand.byteLength / bytesPerElement(dtype)
  const data = allocateOnHost('toHost', dtype, elements)
  await download(operand, bytesOf(data), operand.byteOffset)
  const pitched = layOut('toHost', data, 0, dtype, device, [rows, columns], [pitch, 1])
  return layOutOnHost('toHost', compact(pitched), dtype, shape)
}

/** Copies bytes of an operand's device memory, from `byteOffset` on, to `data`. Resolves when the copy is complete. */
export async function download(operand: Operand, data: Uint8Array, byteOffset: number): Promise<void> {
  refuseInCapture('a copy to the host', 'make it after replay()')
  const placement = placementOn(operand.device, operand)
  const { cudaStream } = placement.stream
  const copied = placement.run(() => {
    const promise = placement.binding.download(
      operand.device.id,
      boundMemory(operand.memory),
      byteOffset,
      data,
      cudaStream,
    )
    // The rest of `run` may throw; then the promise is not awaited, and its rejection would end the process.
    promise.catch(() => undefined)
    return promise
  })
  await settled(copied)
  await reported(operand.device)
}

/**
 * Enqueues a copy of host memory into a contiguous operand in device memory, in the operand's stream. `data`, which has its
 * type and size, has been read when this returns.
 */
export function upload(operand: Operand, data: HostData): void {
  const { memory, byteOffset, byteLength, dtype, device, shape } = operand
  const placement = placementOn(device, operand)
  const { binding, stream } = placement
  // A buffer of the caller may lack the usage that WebGPU's writes require, and begin within a word.
  const isOfCaller = gpuBufferOf(memory) !== null && !isDeviceMemory(memory)
  const copy = isOfCaller ? copyToDevice(layOutOnHost('data', data, dtype, shape), device) : null
  placement.run(() => {
    const target = boundMemory(memory)
    if (copy === null) binding.upload(device.id, target, byteOffset, bytesOf(data), stream.cudaStream)
    else {
      const source = boundMemory(copy.memory)
      binding.copy(device.id, target, byteOffset, device.id, source, 0, byteLength, stream.cudaStream)
    }
  })
  copy?.dispose()
}

/**
 * The placement of work on a device with one operand: its stream, if it is of that device, otherwise the default
 * stream.
 */
export function placementOn(device: Device, operand: Operand): Placement {
  return Placement.of(device, null, () => [operand]) as Placement // only the host has none
}

/** Sets a contiguous operand of the package's memory to zero; on a device this is enqueued in the operand's stream. */
export function clear(operand: Operand): void {
  const { memory, byteOffset, byteLength, device } = operand
  if (isHostMemory(memory)) {
    bytesOf(memory).fill(0, byteOffset, byteOffset + byteLength)
    return
  }
  const placement = placementOn(device, operand)
  placement.run(() => {
    placement.binding.fill(
      device.id,
      boundMemory(operand.memory),
      byteOffset,
      byteLength,
      0,
      placement.stream.cudaStream,
    )
  })
}

/** The elements of a host operand without gaps between rows: a view if it is contiguous, otherwise a copy. */
function compact(operand: Operand): HostData {
  const { memory, byteOffset, dtype, rows, columns, pitch } = operand
  if (rows > 1 && pitch !== columns) return copyRows(operand)
  const start = byteOffset / bytesPerElement(dtype)
  return plainView(dtype, memory as HostData).subarray(start, start + rows * columns)
}
