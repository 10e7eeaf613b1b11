/**
 * The backend under test. The same tests run on the cpu backend, on a CUDA device and on a GPUDevice (each is a project, see
 * project.ts): they import the operations from here and call them with `await`. On a device, operands are copied to
 * it before a call, and operands and results are copied back after it, so tests access host memory only.
 */
import * as lily from '../../lib/index.js'
import {
  type DType,
  type HostData,
  type LilySaved,
  type LoraSaved,
  type Routing,
  type RowsSaved,
  Tensor,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import { type DeviceArray, deviceArray } from './device-array.js'
import { isLong } from './runs.js'

const chosen = process.env.LILY_TEST_BACKEND
export const backend = chosen === 'cuda' || chosen === 'webgpu' ? chosen : 'cpu'

/** The device is the emulator, on which large problems take too long. */
export const isEmulated = backend === 'cuda' && process.env.LILY_TEST_EMULATED === '1'

/** The kernels run on a software adapter, and compile when they are first used. */
export const isWebGpu = backend === 'webgpu'

/** The AMX kernels run on a model of their instructions, which is as slow; see test/cpu/vitest.amx.config.ts. */
export const isModelled = backend === 'cpu' && process.env.LILY_CPU_ISA === 'amx-model'

/** The addon is built with a sanitizer, and the run is not a long one. `npm test` checks the numbers of the same tests. */
export const isSanitized = process.env.LILY_TEST_SANITIZER !== undefined && !isLong

/** The kernels run as WebAssembly; see test/wasm/vitest.config.ts. */
export const isWebAssembly = backend === 'cpu' && process.env.LILY_CPU_ISA === 'wasm'

/** Large problems take too long. */
export const isSlow = isEmulated || isWebGpu || isModelled || (isWebAssembly && !isLong)

type AnySaved = RowsSaved['adapters'][number] | RowsSaved

/** The saved call on the device, by its host counterpart that a test holds. */
const savedOnDevice = new WeakMap<object, AnySaved>()
const HELD = ['hidden', 'probabilities', 'weights'] as const

interface HostOperand {
  data: HostData
  shape: readonly number[]
  dtype?: DType
  strides?: readonly number[]
  byteOffset?: number
}

/** Device memory by host buffer. Operands that share host memory share device memory, in later calls too. */
const moved = new WeakMap<ArrayBufferLike, DeviceArray>()

/** Copies the operands of a call to the device and back. */
class Moves {
  readonly #arrays = new Map<ArrayBufferLike, DeviceArray>()

  /** The operands of a call on the device. Values other than plain host memory are returned unchanged. */
  operands<T>(operands: T): T {
    if (typeof operands !== 'object' || operands === null) return operands
    const moved = Object.entries(operands as object).map(([name, value]: [string, unknown]): [string, unknown] => {
      if (name !== 'dropout') return [name, this.#operand(value)]
      // Of a GPUDevice, the state is on the host.
      return [name, backend === 'webgpu' ? value : this.operands(value)]
    })
    return Object.fromEntries(moved) as T
  }

  #operand(value: unknown): unknown {
    if (value instanceof Tensor) {
      const isHost = !value.isDisposed && value.device.type === 'cpu'
      return isHost ? this.#operand({ data: value.data, shape: value.shape, dtype: value.dtype }) : value
    }
    if (!isHostOperand(value)) return value
    const { data, shape, strides } = value
    const dtype = value.dtype ?? dtypes[data[Symbol.toStringTag]]
    return this.#array(data.buffer).operand({
      shape,
      dtype,
      strides,
      byteOffset: data.byteOffset + (value.byteOffset ?? 0),
      byteLength: data.byteOffset + data.byteLength,
    })
  }

  #array(memory: ArrayBufferLike): DeviceArray {
    const known = this.#arrays.get(memory)
    if (known !== undefined) return known
    const array = moved.get(memory) ?? deviceArray(backend as 'cuda' | 'webgpu', memory.byteLength)
    moved.set(memory, array)
    this.#arrays.set(memory, array)
    array.upload(new Uint8Array(memory))
    return array
  }

  /** Copies all device memory back to the host. */
  async back(): Promise<void> {
    // Not to the memory itself, which may be resizable.
    for (const [memory, array] of this.#arrays) new Uint8Array(memory).set(await array.download())
  }
}

const dtypes: Record<string, DType> = {
  Float32Array: 'float32',
  Float16Array: 'float16',
  Uint8Array: 'uint8',
  Int32Array: 'int32',
}

function isHostOperand(value: unknown): value is HostOperand {
  if (typeof value !== 'object' || value === null) return false
  const { data, shape } = value as Partial<HostOperand>
  return ArrayBuffer.isView(data) && Array.isArray(shape) && !isDetached(data.buffer)
}

/** Calls a function of the package on the backend under test. */
async function call<Operands, Options, Result extends object>(
  operands: Operands,
  options: Options,
  run: (operands: Operands, options: Options) => Result | Promise<Result>,
): Promise<Result> {
  if (backend === 'cpu') return run(operands, options)
  const moves = new Moves()
  try {
    // A call with an adapter per row takes arrays on the host alone.
    const isPerRow = typeof options === 'object' && options !== null && 'adapterOf' in options
    const result = await run(moves.operands(operands), isPerRow ? options : moves.operands(options))
    const entries: [string, unknown][] = []
    for (const [name, value] of Object.entries(result)) {
      const given = (operands as Readonly<Record<string, unknown>>)[name]
      if (name !== 'saved') entries.push([name, await resultOnHost(given, value)])
      else entries.push([name, value === undefined ? undefined : await held(value as AnySaved)])
    }
    return Object.fromEntries(entries) as Result
  } finally {
    // Also after an error: a rejected call must not have written anything.
    await moves.back()
  }
}

/** Given outputs are copied back by Moves; new ones are copied here. */
async function resultOnHost(given: unknown, value: unknown): Promise<unknown> {
  if (!(value instanceof Tensor) || given instanceof Tensor) return value instanceof Tensor ? given : value
  if (isHostOperand(given)) return given.strides === undefined ? tensor(given.data, given.shape, given.dtype) : given
  const host = await value.toHost()
  value.dispose()
  return host
}

/** A proxy of a saved call, of one adapter or of several, with its tensors on the host. */
async function held(saved: AnySaved): Promise<AnySaved> {
  const tensors = new Map<string | symbol, unknown>()
  if ('adapters' in saved) tensors.set('adapters', await Promise.all(saved.adapters.map(held)))
  else for (const name of HELD) tensors.set(name, await saved[name]?.toHost())
  const proxy = new Proxy(saved, {
    get(target, name) {
      // Reading the property of the target throws if the call was disposed of.
      if (tensors.has(name)) return (Reflect.get(target, name, target) as unknown) && tensors.get(name)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
  savedOnDevice.set(proxy, saved)
  return proxy
}

function released<T>(saved: T): T {
  if (Array.isArray(saved)) return saved.map(released) as T
  const isObject = typeof saved === 'object' && saved !== null
  return ((isObject ? savedOnDevice.get(saved) : undefined) ?? saved) as T
}

export async function lilyForward<O extends lily.Exact<O, lily.LilyForwardOptions> = object>(
  operands: lily.LilyForwardOperands,
  options?: O,
): Promise<lily.LilyForwardResult<O>> {
  return call(operands, options, (there, rest) => lily.lilyForward(there, rest))
}

export async function lilyForwardAsync<O extends lily.Exact<O, lily.LilyForwardOptions> = object>(
  operands: lily.LilyForwardOperands,
  options?: O,
): Promise<lily.LilyForwardResult<O>> {
  return call(operands, options, (there, rest) => lily.lilyForwardAsync(there, rest))
}

export async function lilyBackward<R extends Routing, O extends lily.Exact<O, lily.LilyBackwardOptions> = object>(
  operands: lily.LilyBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): Promise<lily.LilyGradients<R, O>> {
  return call(operands, options, (there, rest) => lily.lilyBackward(there, released(saved), rest))
}

export async function lilyBackwardAsync<R extends Routing, O extends lily.Exact<O, lily.LilyBackwardOptions> = object>(
  operands: lily.LilyBackwardOperands,
  saved: LilySaved<R>,
  options?: O,
): Promise<lily.LilyGradients<R, O>> {
  return call(operands, options, (there, rest) => lily.lilyBackwardAsync(there, released(saved), rest))
}

export async function loraForward<O extends lily.Exact<O, lily.LoraForwardOptions> = object>(
  operands: lily.LoraForwardOperands,
  options?: O,
): Promise<lily.LoraForwardResult<O>> {
  return call(operands, options, (there, rest) => lily.loraForward(there, rest))
}

export async function loraForwardAsync<O extends lily.Exact<O, lily.LoraForwardOptions> = object>(
  operands: lily.LoraForwardOperands,
  options?: O,
): Promise<lily.LoraForwardResult<O>> {
  return call(operands, options, (there, rest) => lily.loraForwardAsync(there, rest))
}

export async function loraBackward<O extends lily.Exact<O, lily.LoraBackwardOptions> = object>(
  operands: lily.LoraBackwardOperands,
  saved: LoraSaved,
  options?: O,
): Promise<lily.LoraGradients<O>> {
  return call(operands, options, (there, rest) => lily.loraBackward(there, released(saved), rest))
}

export async function loraBackwardAsync<O extends lily.Exact<O, lily.LoraBackwardOptions> = object>(
  operands: lily.LoraBackwardOperands,
  saved: LoraSaved,
  options?: O,
): Promise<lily.LoraGradients<O>> {
  return call(operands, options, (there, rest) => lily.loraBackwardAsync(there, released(saved), rest))
}

export async function linearForward(
  operands: lily.LinearForwardOperands,
  options?: lily.LinearOptions,
): Promise<lily.LinearForwardResult> {
  return call(operands, options, (there, rest) => lily.linearForward(there, rest))
}

export async function linearForwardAsync(
  operands: lily.LinearForwardOperands,
  options?: lily.LinearOptions,
): Promise<lily.LinearForwardResult> {
  return call(operands, options, (there, rest) => lily.linearForwardAsync(there, rest))
}

/** A packed weight on the backend under test; it holds the device's copy. */
export function packLinear(weight: lily.TensorLike): lily.PackedLinear {
  return lily.packLinear(backend === 'cpu' ? weight : new Moves().operands({ weight }).weight)
}
export async function linearBackward(
  operands: lily.LinearBackwardOperands,
  options?: lily.LinearOptions,
): Promise<lily.LinearBackwardResult> {
  return call(operands, options, (there, rest) => lily.linearBackward(there, rest))
}

export async function linearBackwardAsync(
  operands: lily.LinearBackwardOperands,
  options?: lily.LinearOptions,
): Promise<lily.LinearBackwardResult> {
  return call(operands, options, (there, rest) => lily.linearBackwardAsync(there, rest))
}

export async function foldB(
  saved: LilySaved | readonly LilySaved[],
  db?: TensorLike,
  options?: lily.FoldOptions,
): Promise<Tensor> {
  const run = (there: { db?: TensorLike | undefined }, rest: lily.FoldOptions | undefined) => ({
    db: lily.foldB(released(saved), there.db, rest),
  })
  return (await call({ db }, options, run)).db
}

function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer)
    return false
  } catch {
    return true
  }
}
