/** Clocks of one sample: several calls in a row. */
import type { Backend } from '../backend.js'

/** Runs a function `calls` times and returns the seconds per call. */
export type Clock = (run: () => void, calls: number) => Promise<number>

/** Shortest sample: browsers round the timestamps of a GPU, and their own clocks, to 0.1 ms. */
export const SAMPLE_SECONDS = 0.01

export const hasTimestamps = ({ device }: Backend): boolean => device?.features.has('timestamp-query') === true

export interface OpenClock {
  readonly clock: Clock
  readonly close: () => void
}

export function openClock(backend: Backend): OpenClock {
  const { device } = backend
  if (device === null) return { clock: hostClock, close: () => undefined }
  return hasTimestamps(backend) ? timestampClock(device) : { clock: queueClock(device), close: () => undefined }
}

/** For calls that are complete when they return. */
const hostClock: Clock = (run, calls) => {
  const begin = performance.now()
  for (let call = 0; call < calls; call++) run()
  return Promise.resolve((performance.now() - begin) / 1e3 / calls)
}

/** Measures until the queue is empty: the time to submit the calls counts, too. */
function queueClock({ queue }: GPUDevice): Clock {
  return async (run, calls) => {
    await queue.onSubmittedWorkDone()
    const begin = performance.now()
    for (let call = 0; call < calls; call++) run()
    await queue.onSubmittedWorkDone()
    return (performance.now() - begin) / 1e3 / calls
  }
}

/** Measures between two timestamps in the queue. */
function timestampClock(device: GPUDevice): OpenClock {
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 })
  const resolved = device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC })
  const read = device.createBuffer({ size: 16, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ })
  const stamp = (encoder: GPUCommandEncoder, index: number): void => {
    encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex: index } }).end()
  }
  const clock: Clock = async (run, calls) => {
    const first = device.createCommandEncoder()
    stamp(first, 0)
    device.queue.submit([first.finish()])
    for (let call = 0; call < calls; call++) run()
    const last = device.createCommandEncoder()
    stamp(last, 1)
    last.resolveQuerySet(querySet, 0, 2, resolved, 0)
    last.copyBufferToBuffer(resolved, 0, read, 0, 16)
    device.queue.submit([last.finish()])
    await read.mapAsync(GPUMapMode.READ)
    const [begin, end] = new BigUint64Array(read.getMappedRange().slice(0))
    read.unmap()
    return Number(end - begin) / 1e9 / calls
  }
  return {
    clock,
    close: () => {
      querySet.destroy()
      resolved.destroy()
      read.destroy()
    },
  }
}
