/** The kernels of TensorFlow.js that compute each element, or sums of rows, in the kernels of this package. */
import {
  Add,
  backend,
  broadcast_util,
  engine,
  GatherV2,
  getBackend,
  type GradConfig,
  type GradFunc,
  type KernelConfig,
  type KernelFunc,
  Mean,
  Multiply,
  RealDiv,
  Sigmoid,
  Square,
  Sub,
  Sum,
  type Tensor,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core'
import type { ElementwiseFunction, Extent } from '../operations/call.js'
import { ALL, elementwise, rowSums } from '../operations/elementwise.js'
import { computeTensor, newTensor } from './memory.js'

/** Below this number of elements a call of TensorFlow.js is as fast. */
const FEWEST = 16 * 1024

/** For a shorter row, making the view takes longer than copying its numbers. */
const FEWEST_OF_ROW = 16

const OF_ROWS: Extent = { hasRows: true, hasColumns: false }
const SCALAR: Extent = { hasRows: false, hasColumns: false }

const BINARY: Readonly<Record<string, ElementwiseFunction>> = {
  [Add]: 'add',
  [Sub]: 'subtract',
  [Multiply]: 'multiply',
  [RealDiv]: 'divide',
}

/** A kernel with what this package computes; the old one computes the rest, and has the errors. */
export const ELEMENTWISE_KERNELS: ReadonlyMap<string, (old: KernelConfig) => KernelFunc> = new Map([
  ...Object.entries(BINARY).map(([name, of]) => [name, (old: KernelConfig) => binary(of, old)] as const),
  [
    Sigmoid,
    (old: KernelConfig) =>
      unary(old, (y, x) => {
        elementwise('sigmoid', [1, x.length], y, x)
      }),
  ],
  [
    Square,
    (old: KernelConfig) =>
      unary(old, (y, x) => {
        elementwise('multiply', [1, x.length], y, x, ALL, x)
      }),
  ],
  [Sum, (old: KernelConfig) => rows(old, () => 1)],
  [Mean, (old: KernelConfig) => rows(old, (n) => 1 / n)],
  [GatherV2, gather],
])

function isSmall({ dtype, shape }: TensorInfo): boolean {
  return dtype !== 'float32' || util.sizeFromShape(shape) < FEWEST
}

function binary(name: ElementwiseFunction, old: KernelConfig): KernelFunc {
  return (args) => {
    const { a, b } = args.inputs as unknown as { a: TensorInfo; b: TensorInfo }
    if (a.dtype !== 'float32' || b.dtype !== 'float32' || (isSmall(a) && isSmall(b))) return old.kernelFunc(args)
    const shape = broadcast_util.assertAndGetBroadcastShape(a.shape, b.shape)
    const [ofA, ofB] = [extentOf(a.shape, shape), extentOf(b.shape, shape)]
    const size = util.sizeFromShape(shape)
    const n = ofA?.n ?? ofB?.n ?? size
    // Both operands repeat in the same rows, or only one of them does.
    if (ofA === null || ofB === null || (ofA.n ?? n) !== n || (ofB.n ?? n) !== n) return old.kernelFunc(args)
    return computeTensor([a, b], shape, (y, a, b) => {
      elementwise(name, [size / n, n], y.data, a.data, ofA, b.data, ofB)
    })
  }
}

/**
 * How an operand repeats in a result.
 *
 * @returns with the columns n of the result, null if any number of them will do; null if it repeats otherwise
 */
function extentOf(shape: readonly number[], result: readonly number[]): (Extent & { n: number | null }) | null {
  const size = util.sizeFromShape([...shape])
  const total = util.sizeFromShape([...result])
  if (size === total) return { ...ALL, n: null }
  if (size === 1) return { ...SCALAR, n: null }
  const padded = [...new Array<number>(result.length - shape.length).fill(1), ...shape]
  const first = padded.findIndex((length, axis) => length !== result[axis])
  const last = padded.findLastIndex((length, axis) => length !== result[axis])
  // Ones before the dimensions that it has, or after them.
  if (padded.slice(0, last + 1).every((length) => length === 1)) return { hasRows: false, hasColumns: true, n: size }
  if (padded.slice(first).every((length) => length === 1)) return { ...OF_ROWS, n: total / size }
  return null
}

function unary(old: KernelConfig, compute: (y: Float32Array, x: Float32Array) => void): KernelFunc {
  return (args) => {
    const { x } = args.inputs as unknown as { x: TensorInfo }
    if (isSmall(x)) return old.kernelFunc(args)
    return computeTensor([x], x.shape, (y, x) => {
      compute(y.data, x.data)
    })
  }
}

/** A reduction of the last dimension. */
function rows(old: KernelConfig, scaleOf: (n: number) => number): KernelFunc {
  return (args) => {
    const { x } = args.inputs as unknown as { x: TensorInfo }
    const { axis, keepDims } = args.attrs as unknown as Reduction
    if (isSmall(x) || !isOfRows(x, axis)) return old.kernelFunc(args)
    const leading = x.shape.slice(0, -1)
    const n = x.shape[leading.length]
    return computeTensor([x], keepDims ? [...leading, 1] : leading, (y, x) => {
      rowSums([x.data.length / n, n], y.data, x.data, scaleOf(n))
    })
  }
}

/** The attributes of a reduction. */
interface Reduction {
  readonly axis: number | number[]
  readonly keepDims: boolean
}

function isOfRows({ shape }: TensorInfo, axis: number | number[]): boolean {
  const [only, ...others] = util.parseAxisParam(axis, shape)
  return others.length === 0 && only === shape.length - 1
}

/**
 * The gradients of reductions of the last dimension, which repeat dy. TensorFlow.js multiplies by a tensor of ones that
 * JavaScript fills.
 *
 * @param backendNames where numbers are in host memory
 */
export function gradientsOfRows(backendNames: readonly string[]): [string, (old: GradConfig) => GradFunc][] {
  const gradient =
    (old: GradConfig, scaleOf: (n: number) => number): GradFunc =>
    (dy, saved, attrs) => {
      const [x] = saved
      const isOurs =
        backendNames.includes(getBackend()) && !isSmall(x) && isOfRows(x, (attrs as unknown as Reduction).axis)
      // A gradient of this one takes operations that are recorded.
      if (!isOurs || engine().isTapeOn()) return old.gradFunc(dy, saved, attrs)
      const n = x.shape.at(-1) as number
      const factor = Float32Array.of(scaleOf(n))
      const repeat = () =>
        computeTensor([dy as Tensor], x.shape, (dx, dy) => {
          elementwise('multiply', [x.size / n, n], dx.data, dy.data, OF_ROWS, factor, SCALAR)
        })
      return { x: () => newTensor(repeat()) }
    }
  return [
    [Sum, (old) => gradient(old, () => 1)],
    [Mean, (old) => gradient(old, (n) => 1 / n)],
  ]
}

/** Copies rows. */
function gather(old: KernelConfig): KernelFunc {
  return (args) => {
    const { x, indices } = args.inputs as unknown as { x: TensorInfo; indices: TensorInfo }
    const { axis, batchDims } = args.attrs as unknown as { axis: number; batchDims: number }
    const row = util.sizeFromShape(x.shape.slice(1))
    if (axis !== 0 || batchDims !== 0 || x.dtype !== 'float32' || row < FEWEST_OF_ROW) return old.kernelFunc(args)
    const numbers = backend().readSync(indices.dataId) as ArrayLike<number>
    for (let i = 0; i < numbers.length; i++) {
      if (!(numbers[i] >= 0 && numbers[i] < x.shape[0])) return old.kernelFunc(args)
    }
    return computeTensor([x], [...indices.shape, ...x.shape.slice(1)], (y, { data }) => {
      for (let i = 0; i < numbers.length; i++)
        y.data.set(data.subarray(numbers[i] * row, (numbers[i] + 1) * row), i * row)
    })
  }
}
