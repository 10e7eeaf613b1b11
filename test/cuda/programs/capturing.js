// Captures graphs until it is terminated.
import { parentPort } from 'node:worker_threads'
import { captureGraph, DeviceBuffer } from 'lily-kernels'

const buffer = DeviceBuffer.allocate([256])
captureGraph(() => {
  buffer.fill(1)
  parentPort.postMessage('recording')
  for (;;);
})
