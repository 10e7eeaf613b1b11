/** Tensors of other libraries: their layout is honoured, or the operand is refused. No field of an operand is ignored. */
import { Float16Array } from '@petamoriken/float16'
import ndarray from 'ndarray'
import { describe, expect, it } from 'vitest'
import { cast, LilyError, lilyForward, LilyModel, type MaskLike, tensor, type TensorLike } from '../../lib/index.js'
import { gaussian, randomFrom } from '../support/random.js'

const [tokens, dIn, dOut, rank, experts] = [5, 6, 4, 3, 2]
const random = randomFrom(3)
const x = gaussian(random, tokens * dIn)
const a = { data: gaussian(random, rank * dIn), shape: [rank, dIn] }
const router = { data: gaussian(random, experts * rank), shape: [experts, rank] }
const b = { data: gaussian(random, experts * rank * dOut), shape: [experts, rank, dOut] }

const yOf = (given: unknown) => lilyForward({ x: given as TensorLike, a, router, b }, { routing: 'token' }).y.data
const expected = yOf({ data: x, shape: [tokens, dIn] })

/** x as columns of a larger array whose other elements must not be read. */
const [height, width, top, left] = [tokens + 3, dIn + 5, 2, 4]
const larger = new Float32Array(height * width).fill(NaN)
for (let t = 0; t < tokens; t++) larger.set(x.subarray(t * dIn, (t + 1) * dIn), (top + t) * width + left)
const offset = top * width + left

/** What @stdlib/ndarray has: getters of a class, strides and an offset in elements, and an object for the data type. */
class StdlibArray {
  constructor(
    private readonly values: Float32Array,
    private readonly sizes: number[],
    private readonly steps: number[],
    private readonly start: number,
  ) {}
  get data() {
    return this.values
  }
  get shape() {
    return this.sizes.slice()
  }
  get strides() {
    return this.steps.slice()
  }
  get offset() {
    return this.start
  }
  get order() {
    return 'row-major'
  }
  get dtype() {
    return { toString: () => 'float32' }
  }
}

const onnx = { data: x, dims: [tokens, dIn], type: 'float32' }
const window = ndarray(larger, [height, width]).lo(top, left).hi(tokens, dIn)
const columnMajor = Float32Array.from({ length: x.length }, (_, i) => x[(i % tokens) * dIn + Math.floor(i / tokens)])

describe('a layout that is supported', () => {
  it.each<[string, unknown]>([
    ['of ndarray', ndarray(x.slice(), [tokens, dIn])],
    ['of a window cut out of an ndarray', window],
    ['of numjs, which wraps an ndarray', { selection: window }],
    ['of every second row', ndarray(spread(2), [2 * tokens, dIn]).step(2, 1)],
    ['of ndarray with more dimensions', ndarray(x.slice(), [1, tokens, 1, dIn])],
    ['of @stdlib/ndarray', new StdlibArray(larger, [tokens, dIn], [width, 1], offset)],
    ['with stride and offset', { data: larger, shape: [tokens, dIn], stride: [width, 1], offset }],
    ['with strides and offset', { data: larger, shape: [tokens, dIn], strides: [width, 1], offset }],
    [
      'with strides and byteOffset',
      { data: larger, shape: [tokens, dIn], strides: [width, 1], byteOffset: 4 * offset },
    ],
    ['with an offset alone', { data: Float32Array.from([NaN, ...x, NaN]), shape: [tokens, dIn], offset: 1 }],
    ['of ONNX Runtime', onnx],
    ['of ONNX Runtime in pinned memory', Object.assign(Object.create({ location: 'cpu-pinned' }), onnx)],
    ['of Transformers.js, which wraps one of ONNX Runtime', { ort_tensor: onnx }],
    ['without a prototype', Object.assign(Object.create(null), { data: x, shape: [tokens, dIn] })],
  ])('%s is honoured', (_, given) => {
    expect(yOf(given)).toEqual(expected)
  })
})

/** The parts of other libraries' types that take a shape. */
interface Frameworks {
  /** tf.tensor of TensorFlow.js. */
  tfTensor: (values: Float32Array, shape?: number[]) => unknown
  /** new ort.Tensor of ONNX Runtime. */
  onnxTensor: (type: 'float32', data: Float32Array, dims?: readonly number[]) => unknown
}

describe('the shape of a tensor', () => {
  const values = tensor(x, [tokens, dIn])

  it('is accepted by other libraries, whose types tsc checks here', () => {
    const frameworks: Frameworks = { tfTensor: (_, shape) => shape, onnxTensor: (_type, _data, dims) => dims }
    const data = values.data as Float32Array
    expect(frameworks.tfTensor(data, values.shape)).toEqual([tokens, dIn])
    expect(frameworks.onnxTensor('float32', data, values.shape)).toEqual([tokens, dIn])
    const array = ndarray(data, values.shape, values.strides)
    expect([array.shape, array.get(1, 2)]).toEqual([[tokens, dIn], data[dIn + 2]])
  })

  it('is a copy', () => {
    values.shape[0] = 1
    values.strides[0] = 1
    expect([values.shape, values.strides]).toEqual([
      [tokens, dIn],
      [dIn, 1],
    ])
    const pitched = lilyForward({ x: window, a, router, b }).y
    pitched.shape.push(1)
    expect(pitched.shape).toEqual([tokens, dOut])
  })

  it('may be readonly where it is given', () => {
    const shape: readonly number[] = Object.freeze([tokens, dIn])
    const expected = { data: x, shape: [tokens, dIn] }
    expect(tensor(x, shape).shape).toEqual(expected.shape)
    expect(yOf({ data: x, shape, strides: Object.freeze([dIn, 1]) })).toEqual(yOf(expected))
    const forms: TensorLike[] = [
      { data: x, shape },
      { data: x, dims: shape, type: 'float32' },
    ]
    for (const form of forms) expect(yOf(form)).toEqual(yOf(expected))
  })
})

it.each<[string, MaskLike]>([
  ['booleans', [true, false, true, true, false]],
  ['numbers', [1, 0, 1, 1, 0]],
  ['other numbers', [0.5, 0, 256, -1, 0]],
  ['a Uint8Array', Uint8Array.of(1, 0, 1, 1, 0)],
  ['other bytes', Uint8Array.of(2, 0, 255, 1, 0)],
  ['an Int32Array', Int32Array.of(1, 0, 1, 1, 0)],
  ['a Float32Array', Float32Array.of(1, 0, 1, 1, 0)],
  ['an int32 tensor of ONNX Runtime', { data: Int32Array.of(1, 0, 1, 1, 0), dims: [tokens], type: 'int32' }],
  ['a bool tensor of ONNX Runtime', { data: Uint8Array.of(1, 0, 1, 1, 0), dims: [tokens], type: 'bool' }],
  ['a float32 ndarray', ndarray(Float32Array.of(1, 0, 1, 1, 0), [tokens])],
])('a mask of %s is the same mask', (_, mask) => {
  const operands = { x: { data: x, shape: [tokens, dIn] }, a, router, b }
  const { y, saved } = lilyForward(operands, { mask })
  const same = lilyForward(operands, { mask: Uint8Array.of(1, 0, 1, 1, 0) })
  expect(y.data).toEqual(same.y.data)
  expect(saved.weights.data).not.toEqual(lilyForward(operands).saved.weights.data)
})

/** The rows of x, `step` apart. */
function spread(step: number): Float32Array {
  const rows = new Float32Array(step * x.length).fill(NaN)
  for (let t = 0; t < tokens; t++) rows.set(x.subarray(t * dIn, (t + 1) * dIn), step * t * dIn)
  return rows
}

const model = LilyModel.create({ layers: [{ name: 'proj', inFeatures: dIn, outFeatures: dOut }], config: { r: 2 } })

const tfjs = { dataId: {}, dataSync: () => x, data: () => Promise.resolve(x), shape: [tokens, dIn], dtype: 'float32' }

class Pitched {
  readonly data = x
  readonly shape = [tokens, dIn]
  readonly pitch = dIn
}

describe('what is not supported', () => {
  it.each<[string, unknown, string, string]>([
    ['a transposed ndarray', ndarray(columnMajor, [dIn, tokens]).transpose(1, 0), 'SHAPE', 'row-major copy'],
    ['an ndarray that runs backwards', ndarray(x.slice(), [tokens, dIn]).step(-1, 1), 'SHAPE', 'at least 0, got -6'],
    ['columns that run backwards', ndarray(x.slice(), [tokens, dIn]).step(1, -1), 'SHAPE', 'at least 0, got -1'],
    ['every second column', ndarray(spread(2), [tokens, 2 * dIn]).step(1, 2), 'SHAPE', '1 as the last stride'],
    ['a column-major array', new StdlibArray(columnMajor, [tokens, dIn], [1, tokens], 0), 'SHAPE', 'last stride'],
    ['one row for all', { data: x, shape: [tokens, dIn], stride: [0, 1] }, 'SHAPE', 'overlap'],
    ['an ndarray of arrays', ndarray(Array.from(x), [tokens, dIn]), 'ARGUMENT', 'data as an array'],
    ['an ndarray of float64', ndarray(Float64Array.from(x), [tokens, dIn]), 'DTYPE', 'Float64Array'],
    ['an offset beyond data', { data: x, shape: [tokens, dIn], offset: 1 }, 'SHAPE', 'x: '],
    ['an offset that is negative', { data: x, shape: [tokens, dIn], offset: -1 }, 'ARGUMENT', 'offset'],
    ['an offset of a half', { data: x, shape: [tokens, dIn], offset: 0.5 }, 'ARGUMENT', 'offset'],
    ['stride and strides', { data: x, shape: [tokens, dIn], stride: [6, 1], strides: [6, 1] }, 'ARGUMENT', 'got both'],
    ['both offsets', { data: x, shape: [tokens, dIn], offset: 0, byteOffset: 0 }, 'ARGUMENT', 'got both'],
    ['shape and dims', { data: x, shape: [tokens, dIn], dims: [dIn, tokens] }, 'ARGUMENT', 'got both'],
    ['dtype and type', { data: x, shape: [tokens, dIn], dtype: 'float32', type: 'int32' }, 'ARGUMENT', 'got both'],
    ['a field that nobody reads', { data: x, shape: [tokens, dIn], order: 'F' }, 'ARGUMENT', "unknown field 'order'"],
    ['a pitch', { data: x, shape: [tokens, dIn], pitch: dIn }, 'ARGUMENT', "unknown field 'pitch'"],
    ['a pitch of an instance of a class', new Pitched(), 'ARGUMENT', 'got pitch; pass strides: [pitch, 1]'],
    [
      'another CPU than the host',
      { data: x, shape: [tokens, dIn], device: { type: 'cpu', id: 5 } },
      'DEVICE',
      'got id 5',
    ],
    ['a misspelt field', { data: x, shape: [tokens, dIn], byteoffset: 8 }, 'ARGUMENT', "unknown field 'byteoffset'"],
    ['a tfjs tensor', tfjs, 'ARGUMENT', 'await tensor.data(), shape: tensor.shape }, or fromTf(tensor)'],
    ['a tensor on the GPU of ONNX Runtime', onGpu(), 'ARGUMENT', "'gpu-buffer'; pass { buffer"],
    ['a math.js matrix', { _data: [[1]], _size: [1, 1], data: x }, 'ARGUMENT', 'math.js'],
    ['an ml-matrix', { data: [x], rows: 1, columns: 3, to1DArray: () => [] }, 'ARGUMENT', 'ml-matrix'],
    ['data that is a function', { data: () => x, shape: [tokens, dIn] }, 'ARGUMENT', 'data is a function'],
    ['a stride that is a function', { data: x, shape: [tokens, dIn], stride: () => [6, 1] }, 'ARGUMENT', 'stride is'],
    ['a promise', Promise.resolve(tensor(x, [tokens, dIn])), 'ARGUMENT', 'got a promise; await it'],
    [
      'what forward returns',
      lilyForward({ x: { data: x, shape: [tokens, dIn] }, a, router, b }),
      'ARGUMENT',
      'pass its y',
    ],
    ['a parameter', [...model.parameters().values()][0], 'ARGUMENT', 'got a parameter; pass its value'],
    ['nested arrays', [[1, 2]], 'ARGUMENT', 'an array of 1'],
    ['a clone of a Tensor', structuredClone(tensor(x, [tokens, dIn])), 'ARGUMENT', 'send its { data, shape, dtype }'],
    ['a Tensor in JSON', JSON.parse(JSON.stringify(tensor(x, [tokens, dIn]))), 'ARGUMENT', 'Object without data; that'],
  ])('%s is refused', (_, given, code, message) => {
    const error = caught(() => yOf(given))
    expect(error).toMatchObject({ code: `ERR_LILY_${code}`, argument: 'x' })
    expect(error.message).toContain(message)
  })

  it('a Float16Array of a library, whose bits are accepted as the error says', () => {
    const [values, shape] = [[1, 0.5, -2], [3]]
    const data = new Float16Array(values)
    const advice = "; pass new Uint16Array(data.buffer, data.byteOffset, data.length) and the dtype 'float16'"
    const given = { data: data as unknown as Uint16Array, shape }
    expect(caught(() => cast(given as never, 'float32')).message).toContain(advice)
    expect(caught(() => tensor(given.data, shape, 'float16')).message).toContain(advice)
    const bits = new Uint16Array(data.buffer, data.byteOffset, data.length)
    expect([...cast(tensor(bits, shape, 'float16'), 'float32').data]).toEqual(values)
    expect([...cast({ data: bits, dims: shape, type: 'float16' }, 'float32').data]).toEqual(values)
  })

  it('in device memory too', () => {
    const place = { shape: [tokens, dIn], dtype: 'float32', device: { type: 'cuda', id: 0 } }
    for (const [fields, message] of [
      [{ stride: [1, tokens] }, 'last stride'],
      [{ strides: [-dIn, 1] }, 'at least 0'],
      [{ offset: 1, byteOffset: 4 }, 'got both'],
      [{ pitch: 8 }, "unknown field 'pitch'"],
      [{ ptr: -16n }, 'expected ptr to be an address below 2^64, got -16'],
      [{ ptr: 2n ** 64n }, 'expected ptr to be an address below 2^64, got 18446744073709551616'],
      [{ ptr: 2 ** 53 }, 'expected ptr to be an address, as a bigint or an integer'],
      [{ device: null }, "expected device { type: 'cuda', id } with ptr"],
      [{ device: { type: 'cuda', id: -1 } }, "expected device { type: 'cuda', id } with ptr"],
      [{ device: { type: 'cpu', id: 0 } }, 'pass memory of the host as { data }'],
    ] as const) {
      expect(caught(() => yOf({ ptr: 4096n, ...place, ...fields })).message).toContain(message)
    }
  })
})

function caught(call: () => unknown): LilyError {
  try {
    call()
  } catch (error) {
    expect(error).toBeInstanceOf(LilyError)
    return error as LilyError
  }
  throw new Error('nothing was refused')
}

/** Its data cannot be read, which the getter says by throwing. */
function onGpu(): object {
  return {
    dims: [tokens, dIn],
    type: 'float32',
    location: 'gpu-buffer',
    get data(): never {
      throw new Error('The data is not on CPU')
    },
  }
}
