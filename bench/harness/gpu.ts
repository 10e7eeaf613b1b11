/** WebGPU for the benchmark, from the runtime or the package `webgpu` (Dawn), with TensorFlow.js on the same device. */
import { createLily, type Lily } from '../../lib/webgpu/index.js'
import type { TensorFlow } from '../methods/composed/tensorflow.js'
import { adapterName, SOFTWARE } from './adapter-name.js'
import type { Clock } from './sampling.js'

/** An open device. */
export interface Gpu {
  readonly device: GPUDevice
  readonly lily: Lily
  /** The adapter as its driver describes it. */
  readonly name: string
  /** Whether the adapter is a program on the CPU: its times say nothing about a GPU. */
  readonly isSoftware: boolean
  /** TensorFlow.js on the device, or the reason why there is none. */
  readonly tensorFlow: TensorFlow | string
  readonly close: () => void
}

/** Opens a device of the default adapter. Throws an error that says what is missing. */
export async function openGpu(): Promise<Gpu> {
  const gpu = await provideWebGpu()
  const tensorFlow = await openTensorFlow()
  const device = typeof tensorFlow === 'string' ? await requestDevice(gpu) : tensorFlow.device
  const name = adapterName(device.adapterInfo)
  const lily = createLily(device)
  return {
    device,
    lily,
    name,
    tensorFlow,
    isSoftware: SOFTWARE.test(name),
    close: () => {
      lily.dispose()
      device.destroy() // its threads keep the process from ending
    },
  }
}

/** Imports a package that only some users install. */
async function optional<T>(name: string): Promise<T> {
  return (await import(name)) as T
}

/** Gives `navigator.gpu`, which TensorFlow.js also reads. */
async function provideWebGpu(): Promise<GPU> {
  const { navigator } = globalThis as { navigator?: { readonly gpu?: GPU; readonly userAgent?: string } }
  if (navigator?.gpu !== undefined) return navigator.gpu
  let dawn: { create: (options: string[]) => GPU; globals: object }
  try {
    dawn = await optional('webgpu')
  } catch (cause) {
    throw new Error(`Node.js ${process.version} has no WebGPU; npm install webgpu, which is Dawn`, { cause })
  }
  Object.assign(globalThis, dawn.globals)
  const gpu = dawn.create([])
  const value = { userAgent: navigator?.userAgent ?? '', gpu }
  Object.defineProperty(globalThis, 'navigator', { value, configurable: true })
  return gpu
}

async function requestDevice(gpu: GPU): Promise<GPUDevice> {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (adapter === null) throw new Error('WebGPU has no adapter: there is no GPU with a driver for it')
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits
  return adapter.requestDevice({
    requiredFeatures: adapter.features.has('timestamp-query') ? ['timestamp-query'] : [],
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
  })
}

/** Members of TensorFlow.js' WebGPUBackend. */
interface TensorFlowBackend {
  readonly device: GPUDevice
  readonly commandEncoder: GPUCommandEncoder | null
  endComputePassEncoder(): void
  submitQueue(): void
}

/** TensorFlow.js chooses its device itself. */
async function openTensorFlow(): Promise<TensorFlow | string> {
  const packages = ['@tensorflow/tfjs', '@tensorflow/tfjs-backend-webgpu']
  try {
    const [tf] = await Promise.all(packages.map((name) => optional<TensorFlow['tf']>(name)))
    if (!(await tf.setBackend('webgpu'))) return 'its WebGPU backend did not start'
    const backend = tf.backend() as unknown as TensorFlowBackend
    return {
      tf,
      device: backend.device,
      submit: () => {
        if (backend.commandEncoder === null) return // it also submits by itself
        backend.endComputePassEncoder()
        backend.submitQueue()
      },
    }
  } catch {
    return `it is not installed; npm install ${packages.join(' ')}`
  }
}

/** Shortest sample: browsers round timestamps to 0.1 ms. */
export const GPU_SAMPLE_SECONDS = 0.01

/** Measures between two timestamps in the queue; without them, until the queue is empty. */
export function gpuClock(device: GPUDevice): Clock {
  if (!device.features.has('timestamp-query')) {
    return async (run, calls) => {
      await device.queue.onSubmittedWorkDone()
      const begin = performance.now()
      for (let call = 0; call < calls; call++) run()
      await device.queue.onSubmittedWorkDone()
      return (performance.now() - begin) / 1e3 / calls
    }
  }
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 })
  const resolved = device.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC })
  const read = device.createBuffer({ size: 16, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ })
  const stamp = (encoder: GPUCommandEncoder, index: number): void => {
    encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex: index } }).end()
  }
  return async (run, calls) => {
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
}

/** Runs work; an error of the device that it caused becomes an exception. */
export async function withErrors<T>({ device, lily }: Gpu, work: () => Promise<T>): Promise<T> {
  const filters = ['validation', 'out-of-memory', 'internal'] as const
  for (const filter of filters) device.pushErrorScope(filter)
  try {
    const result = await work()
    // Rejects with what WebGPU has reported of the calls of the package.
    await lily.tensor([], [0]).toHost()
    return result
  } finally {
    const errors = await Promise.all(filters.map(() => device.popErrorScope()))
    const error = errors.find((found) => found !== null)
    // An error of the device explains whatever else has failed.
    // eslint-disable-next-line no-unsafe-finally
    if (error != null) throw new Error(error.message)
  }
}
