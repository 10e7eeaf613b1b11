/** Copies between the host and devices. */
import { bytesOf, bytesPerElement, type HostData, viewOf } from '../base/dtype.js'
import { settled } from '../binding/errors.js'
import { type Memory, native } from '../binding/native.js'
import { allocateOnHost } from '../memory/allocate.js'
import { refuseInCapture } from '../memory/capture.js'
import { CPU, type Device } from '../memory/device.js'
import { isDeviceMemory, isHostMemory, layOut, layOutOnDevice, type Operand } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'

/** A contiguous copy on a device, made in its default stream. The source has been read when it returns, if it is on the host. */
export function copyToDevice(operand: Operand, device: Device): Operand {
  const { dtype, shape, rows, columns, pitch, memory } = operand
  const placement = placementOn(device, operand)
  const rowBytes = columns * bytesPerElement(dtype)
  const target = placement.allocate('device', rows * rowBytes)
  const { device: id, number } = placement.stream
  placement.run(() => {
    if (isHostMemory(memory)) {
      native.upload(id, target.handle, 0, bytesOf(compact(operand)), number)
      return
    }
    const contiguous = rows <= 1 || pitch === columns
    const source = memoryOf(operand)
    const copy = (to: number, from: number, bytes: number) => {
      native.copy(id, target.handle, to, operand.device.id, source, operand.byteOffset + from, bytes, number)
    }
    if (contiguous) copy(0, 0, rows * rowBytes)
    else for (let row = 0; row < rows; row++) copy(row * rowBytes, row * pitch * bytesPerElement(dtype), rowBytes)
  })
  return layOutOnDevice('device', target, 0, dtype, shape)
}

/** A contiguous copy on the host of an operand that is there. */
export function copyOnHost(operand: Operand): Operand {
  const copy = compact(operand).slice() as HostData
  return layOut('copy', copy, 0, operand.dtype, CPU, operand.shape, null)
}

/** A contiguous copy on the host, when all work on the operand is done. */
export async function copyToHost(operand: Operand): Promise<Operand> {
  const { dtype, shape, rows, columns, pitch, device } = operand
  const elements = operand.byteLength / bytesPerElement(dtype)
  const data = allocateOnHost('toHost', dtype, elements)
  await download(operand, bytesOf(data), operand.byteOffset)
  const spread = layOut('toHost', data, 0, dtype, device, [rows, columns], [pitch, 1])
  return layOut('toHost', compact(spread), 0, dtype, CPU, shape, null)
}

/** Fills `data` with bytes of an operand's memory. */
export async function download(operand: Operand, data: Uint8Array, byteOffset: number): Promise<void> {
  refuseInCapture('the contents of device memory', 'read them after replay()')
  const placement = placementOn(operand.device, operand)
  const { device, number } = placement.stream
  await settled(placement.run(() => native.download(device, memoryOf(operand), byteOffset, data, number)))
}

/** The stream of the operand where it has one and is there, else the device's own. */
export function placementOn(device: Device, operand: Operand): Placement {
  const placement = Placement.of(device, null, () => [operand])
  if (placement === null) throw new Error('only devices have a placement')
  return placement
}

/** Zeros in all of a contiguous operand of the package's own; on a device, enqueued in its stream. */
export function clear(operand: Operand): void {
  const { memory, byteOffset, byteLength, device } = operand
  if (isHostMemory(memory)) {
    bytesOf(memory).fill(0, byteOffset, byteOffset + byteLength)
    return
  }
  const placement = placementOn(device, operand)
  placement.run(() => {
    native.fill(device.id, memoryOf(operand), byteOffset, byteLength, 0, placement.stream.number)
  })
}

/** As the binding takes it. */
export function memoryOf({ memory }: Operand): Memory {
  return isDeviceMemory(memory) ? memory.handle : memory
}

/** The rows of an operand on the host, one after the other; its own memory where they are so already. */
function compact({ memory, byteOffset, dtype, rows, columns, pitch }: Operand): HostData {
  const data = memory as HostData
  const start = byteOffset / bytesPerElement(dtype)
  const view = viewOf(dtype, data.buffer, data.byteOffset, data.byteLength / bytesPerElement(dtype))
  if (rows <= 1 || pitch === columns) return view.subarray(start, start + rows * columns)
  const copy = allocateOnHost('data', dtype, rows * columns)
  for (let row = 0; row < rows; row++) {
    copy.set(view.subarray(start + row * pitch, start + row * pitch + columns), row * columns)
  }
  return copy
}
