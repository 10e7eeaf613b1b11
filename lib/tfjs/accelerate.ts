/** Replaces kernels of TensorFlow.js by kernels of this package: products, and copies that share numbers instead. */
import {
  _FusedMatMul,
  BatchMatMul,
  backend as currentBackend,
  broadcast_util,
  Cast,
  Elu,
  getGradient,
  getKernel,
  type GradConfig,
  Identity,
  type KernelConfig,
  type KernelFunc,
  LeakyRelu,
  Prelu,
  registerGradient,
  registerKernel,
  Relu,
  Relu6,
  Sigmoid,
  type TensorInfo,
  unregisterGradient,
  unregisterKernel,
} from '@tensorflow/tfjs-core'
import { LilyError } from '../base/errors.js'
import { backends } from '../memory/backends.js'
import { matMul } from '../operations/matmul.js'
import { ELEMENTWISE_KERNELS, gradientsOfRows } from './elementwise.js'
import { computeTensor, type HostTensor } from './memory.js'

/** The backends whose numbers are in host memory. */
const BACKENDS = ['wasm', 'cpu']

/** The kernels of the activations that TensorFlow.js fuses. */
const ACTIVATIONS: Readonly<Partial<Record<string, string>>> = {
  relu: Relu,
  relu6: Relu6,
  sigmoid: Sigmoid,
  elu: Elu,
  leakyrelu: LeakyRelu,
  prelu: Prelu,
}

/** The inputs and the attributes of both kernels; BatchMatMul has the first two of each. */
interface Inputs {
  readonly a: TensorInfo
  readonly b: TensorInfo
  readonly bias?: TensorInfo | undefined
  readonly preluActivationWeights?: TensorInfo | undefined
}
interface Attributes {
  readonly transposeA: boolean
  readonly transposeB: boolean
  readonly activation?: string | undefined
  readonly leakyreluAlpha?: number | undefined
}

/** The member of the wasm backend that this file uses. */
interface WasmBackend {
  readonly dataIdMap: { get(dataId: object): { readonly shape: readonly number[] } }
}

/** Our kernels that are registered, and those that they replace. */
const replaced = new Map<KernelConfig, KernelConfig>()
/** The same of gradients, which all backends share. */
const replacedGradients = new Map<GradConfig, GradConfig>()

/**
 * Makes the backends wasm and cpu of TensorFlow.js multiply matrices with this package: `tf.matMul`, `tf.fused.matMul`,
 * dense layers, and their gradients. Call it when the backends are imported. Products are float32, in place in the memory
 * of the backend, with all threads; other types keep the kernels that were registered before. Results differ from theirs
 * by rounding, except where those are wrong (docs/tfjs.md#accelerate). Formula:
 * docs/linear.md#matrix-products.
 *
 * Functions of many elements also run in this package: sums, differences, products and quotients of tensors, `tf.sigmoid`,
 * squares, sums and means of rows and their gradients, and `tf.gather` of rows. On the wasm backend, copies of tensors, such
 * as those that TensorFlow.js keeps for gradients, share the numbers of the original, as they do on its cpu backend.
 *
 * Where this package runs as WebAssembly, functions of elements stay as they are, and so does `tf.matMul` of one pair of
 * matrices that are not transposed on the wasm backend.
 *
 * @returns a function that restores the kernels. Both may be called again
 * @throws LilyError ERR_LILY_BACKEND_UNAVAILABLE
 * @example
 * await tf.setBackend('wasm')
 * const restore = accelerate()
 */
export function accelerate(): () => void {
  const [{ available, reason, devices }] = backends()
  if (!available) throw new LilyError('ERR_LILY_BACKEND_UNAVAILABLE', `the cpu backend is not available: ${reason}`)
  const isWebAssembly = devices[0].simd?.startsWith('wasm') === true
  for (const backendName of BACKENDS) {
    // In one thread on a Xeon that also did other work, 32 products (128 x 64 x 128) took 106 ms in TensorFlow.js and 11 ms
    // in our WebAssembly: its module has a plain loop for all but single products, which it leaves to XNNPACK. Those took
    // 56 ms at (1024 x 256 x 1024), and 83 ms in ours, which copies the operands.
    const keepsSingle = isWebAssembly && backendName === 'wasm'
    replaceAll(backendName, [
      [BatchMatMul, (old) => kernelOf(old, keepsSingle)],
      [_FusedMatMul, (old) => kernelOf(old, false)],
    ])
    if (!isWebAssembly) replaceAll(backendName, ELEMENTWISE_KERNELS)
  }
  if (!isWebAssembly) replaceGradients()
  replaceAll('wasm', [
    [Identity, sharing],
    [Cast, sharing],
  ])
  return restore
}

function replaceAll(
  backendName: string,
  kernels: Iterable<readonly [string, (old: KernelConfig) => KernelFunc]>,
): void {
  for (const [kernelName, kernelFuncOf] of kernels) {
    const old = getKernel(kernelName, backendName) as KernelConfig | undefined
    if (old === undefined || replaced.has(old)) continue
    // The setup of the old kernel prepares it for a backend that starts later.
    const kernel = { ...old, kernelFunc: kernelFuncOf(old) }
    reregister(kernel)
    replaced.set(kernel, old)
  }
}

function replaceGradients(): void {
  for (const [kernelName, gradFuncOf] of gradientsOfRows(BACKENDS)) {
    const old = getGradient(kernelName) as GradConfig | undefined
    if (old === undefined || replacedGradients.has(old)) continue
    const gradient = { ...old, gradFunc: gradFuncOf(old) }
    reregisterGradient(gradient)
    replacedGradients.set(gradient, old)
  }
}

function reregisterGradient(gradient: GradConfig): void {
  unregisterGradient(gradient.kernelName)
  registerGradient(gradient)
}

function restore(): void {
  for (const [gradient, old] of replacedGradients) {
    if (getGradient(gradient.kernelName) !== gradient) continue
    reregisterGradient(old)
    replacedGradients.delete(gradient)
  }
  for (const [kernel, old] of replaced) {
    // Another one may have replaced ours since, and may itself be replaced by ours again.
    if (getKernel(kernel.kernelName, kernel.backendName) !== kernel) continue
    reregister(old)
    replaced.delete(kernel)
  }
}

/** Without the warning about a kernel that is registered twice. */
function reregister(kernel: KernelConfig): void {
  unregisterKernel(kernel.kernelName, kernel.backendName)
  registerKernel(kernel)
}

/**
 * A kernel that returns the numbers of its input where the result has the same. The wasm backend copies them, also for each
 * tensor that a gradient keeps. Its cpu backend shares them, as both do in `tf.reshape`: no kernel changes a tensor.
 *
 * The wasm backend stores the shape of the first tensor of the numbers, and its fused kernels check the shape of a bias
 * there, so that a vector that was made by `tf.reshape` is copied.
 */
function sharing(old: KernelConfig): KernelFunc {
  return (args) => {
    const { dataId, shape, dtype } = args.inputs.x as TensorInfo
    const { dtype: wanted = dtype } = (args.attrs ?? {}) as { readonly dtype?: string }
    const { dataIdMap } = args.backend as WasmBackend
    const isReshaped = shape.length === 1 && dataIdMap.get(dataId).shape.length !== 1
    if (dtype === 'string' || wanted !== dtype || isReshaped) return old.kernelFunc(args)
    currentBackend().incRef(dataId)
    return { dataId, shape, dtype }
  }
}

/**
 * A kernel that multiplies what this package can.
 *
 * @param old multiplies the rest, and has the errors of wrong shapes
 * @param keepsSingle whether it also multiplies single pairs that are not transposed
 */
function kernelOf(old: KernelConfig, keepsSingle: boolean): KernelFunc {
  return (args) => {
    const inputs = args.inputs as unknown as Inputs
    const attributes = args.attrs as unknown as Attributes
    const shape = shapeOf(inputs, attributes)
    const isSingle = shape?.length === 2 || shape?.slice(0, -2).every((size) => size === 1) === true
    const isKept = keepsSingle && isSingle && !attributes.transposeA && !attributes.transposeB
    const { activation = 'linear', leakyreluAlpha } = attributes
    const activate = activation === 'linear' ? null : getKernel(ACTIVATIONS[activation] ?? '', old.backendName)
    if (shape === null || isKept || activate === undefined) return old.kernelFunc(args)

    const product = multiply(inputs, attributes, shape)
    if (activate === null) return product
    try {
      return activate.kernelFunc({
        inputs: { x: product, ...(activation === 'prelu' && { alpha: inputs.preluActivationWeights }) },
        backend: args.backend,
        attrs: activation === 'leakyrelu' ? { alpha: leakyreluAlpha as number } : {},
      })
    } finally {
      currentBackend().disposeData(product.dataId)
    }
  }
}

/** The shape of the product; null if this package leaves it to TensorFlow.js. */
function shapeOf({ a, b, bias }: Inputs, { transposeA, transposeB }: Attributes): number[] | null {
  const given = bias === undefined ? [a, b] : [a, b, bias]
  if (given.some(({ dtype, shape }) => dtype !== 'float32' || shape.includes(0))) return null
  const [m, k] = sizesOf(a, transposeA)
  const [depth, n] = sizesOf(b, transposeB)
  if (depth !== k || (bias !== undefined && (bias.shape.length !== 1 || bias.shape[0] !== n))) return null
  return [...broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n]
}

function sizesOf({ shape }: TensorInfo, isTransposed: boolean): number[] {
  const sizes = shape.slice(-2)
  return isTransposed ? sizes.reverse() : sizes
}

function multiply({ a, b, bias }: Inputs, { transposeA, transposeB }: Attributes, shape: number[]): TensorInfo {
  return computeTensor(bias === undefined ? [a, b] : [a, b, bias], shape, (y, a, b, bias?: HostTensor) => {
    matMul({ a, b, bias, y }, { transposeA, transposeB, accumulate: false })
  })
}
