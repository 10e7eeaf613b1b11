/**
 * Host forms of operands, which give equal results without a copy; tensors and their lifetime.
 *
 * @asan
 */
import { getFloat16, setFloat16 } from '@petamoriken/float16'
import { inspect } from 'node:util'
import { runInThisContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import {
  cast,
  type HostData,
  lilyBackward,
  LilyError,
  lilyForward,
  Tensor,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { type Float, pack, unpack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, type HostTensor, numbers, sizes, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes

/** y and all gradients, with one operand replaced. */
function results(replaced: Partial<Record<'x' | 'a' | 'router' | 'b' | 'dy', TensorLike>> = {}) {
  const { dy, ...operands } = { ...smallOperands(), ...replaced }
  const { y, saved } = lilyForward(operands)
  const { dx, da, dRouter, db } = lilyBackward({ dy }, saved)
  return { y, dx, da, dRouter, db }
}

function expectSameResults(actual: ReturnType<typeof results>, expected = results()): void {
  for (const [name, value] of Object.entries(expected)) {
    expectSameBits(name, actual[name as 'y'].data, value.data)
  }
}

/** The matrix with a gap after each row, beginning `start` elements into its memory. */
function spread({ data, shape }: HostTensor, gap: number, start = 0) {
  const columns = shape.at(-1) ?? 0
  const rows = data.length / columns
  const memory = new Float32Array(start + rows * (columns + gap)).fill(NaN)
  for (let row = 0; row < rows; row++) {
    memory.set(data.subarray(row * columns, (row + 1) * columns), start + row * (columns + gap))
  }
  return memory
}

describe('host forms of an operand', () => {
  const operands = ['x', 'a', 'router', 'b', 'dy'] as const
  const forms: Record<string, (plain: HostTensor) => TensorLike> = {
    'with a dtype': ({ data, shape }) => ({ data, shape, dtype: 'float32' }),
    'with a device': ({ data, shape }) => ({ data, shape, device: { type: 'cpu' } }),
    "with ONNX Runtime's names": ({ data, shape }) => ({ data, dims: shape, type: 'float32' }),
    'a Tensor': ({ data, shape }) => tensor(data, shape),
    'a section of a larger array': ({ data, shape }) => {
      const memory = new Float32Array(data.length + 5).fill(NaN)
      memory.set(data, 3)
      return { data: memory.subarray(3, 3 + data.length), shape }
    },
    'with a byte offset': (plain) => ({ data: spread(plain, 0, 3), shape: plain.shape, byteOffset: 12 }),
    'in shared memory': ({ data, shape }) => {
      const shared = new Float32Array(new SharedArrayBuffer(data.byteLength))
      shared.set(data)
      return { data: shared, shape }
    },
    'an object with getters': ({ data, shape }) => ({
      get data() {
        return data
      },
      get shape() {
        return shape
      },
    }),
    'rows with a pitch, at an offset': (plain) => {
      const pitch = (plain.shape.at(-1) ?? 0) + 3
      const strides = plain.shape.map((_, axis) =>
        plain.shape
          .slice(axis + 1, -1)
          .reduce((product, size) => product * size, axis === plain.shape.length - 1 ? 1 : pitch),
      )
      return { data: spread(plain, 3, 2), shape: plain.shape, strides, byteOffset: 8 }
    },
  }
  for (const [form, make] of Object.entries(forms)) {
    it(form, () => {
      for (const name of operands) expectSameResults(results({ [name]: make(smallOperands()[name]) }))
    })
  }

  it('leading dimensions are tokens, and results have the same leading dimensions', () => {
    const { x, dy, ...rest } = smallOperands()
    const cube = { ...x, shape: [2, tokens / 2, dIn] }
    const { y, saved } = lilyForward({ x: cube, ...rest })
    expect(y.shape).toEqual([2, tokens / 2, dOut])
    const gradients = lilyBackward({ dy: { ...dy, shape: [2, tokens / 2, dOut] } }, saved)
    expect(gradients.dx.shape).toEqual([2, tokens / 2, dIn])
    expectSameResults({ y, ...gradients })
  })

  it('leading dimensions may have a common pitch; a dimension of size 1 may have any stride', () => {
    const { x } = smallOperands()
    const pitch = dIn + 2
    const strides = [3 * pitch, 999, pitch, 1]
    expectSameResults(results({ x: { data: spread(x, 2), shape: [2, 1, 3, dIn], strides } }))
  })

  it('the stride within a single column, and all strides of no elements, are ignored', () => {
    const column = { data: Float32Array.of(1, 2, 3), shape: [3, 1], strides: [1, 9] }
    expect([...cast(column, 'float32').data]).toEqual([1, 2, 3])
    expect(cast({ data: new Float32Array(0), shape: [0, 3], strides: [1, 1] }, 'float32').shape).toEqual([0, 3])
  })

  it('b and db in the layout of PEFT, [E*r, d_out]', () => {
    const { b } = smallOperands()
    const actual = results({ b: { ...b, shape: [experts * rank, dOut] } })
    expect(actual.db.shape).toEqual([experts * rank, dOut])
    expect(results().db.shape).toEqual([experts, rank, dOut])
    expectSameResults(actual)
  })

  it('columns of a wider matrix, as input and output of one call', () => {
    // Like q of a fused qkv: x in the first columns, y in the last.
    const { x, dy: _, ...rest } = smallOperands()
    const width = dIn + dOut
    const fused = spread(x, dOut)
    const strides = [width, 1]
    const y = { data: fused, shape: [tokens, dOut], strides, byteOffset: 4 * dIn }
    for (let t = 0; t < tokens; t++) fused.fill(1, t * width + dIn, (t + 1) * width)
    lilyForward({ x: { data: fused, shape: [tokens, dIn], strides }, ...rest, y })
    const apart = filled(1, tokens, dOut)
    lilyForward({ x, ...rest, y: apart })
    const cut = new Float32Array(tokens * dOut)
    for (let t = 0; t < tokens; t++) cut.set(fused.subarray(t * width + dIn, (t + 1) * width), t * dOut)
    expectSameBits('y', cut, apart.data)
  })

  it.each([
    ['before', 0],
    ['behind', tokens * (dIn + dOut)],
  ])('y directly %s x in one memory', (_, at) => {
    const { x, dy: _dy, ...rest } = smallOperands()
    const memory = new Float32Array(tokens * (dIn + 2 * dOut)).fill(1)
    const view = (from: number, shape: number[]) => {
      return { data: memory.subarray(from, from + shape[0] * shape[1]), shape }
    }
    const inMemory = view(tokens * dOut, x.shape)
    inMemory.data.set(x.data)
    const { y } = lilyForward({ x: inMemory, ...rest, y: view(at, [tokens, dOut]) })
    const apart = filled(1, tokens, dOut)
    lilyForward({ x, ...rest, y: apart })
    expectSameBits('y', y.data, apart.data)
  })
})

describe('forms of the small operands', () => {
  const flags = [1, 0, 1, 1, 0, 1]
  const { dy: _, ...operands } = smallOperands()
  const masks = {
    'a Uint8Array': Uint8Array.from(flags),
    numbers: flags,
    booleans: flags.map(Boolean),
    'a tensor': { data: Uint8Array.from(flags), shape: [tokens] },
    "a tensor with ONNX Runtime's names": { data: Uint8Array.from(flags), dims: [tokens], type: 'bool' },
    'any nonzero byte': Uint8Array.from(flags, (flag) => flag * 255),
    'an Int32Array': Int32Array.from(flags),
    'a tensor of float32': { data: Float32Array.from(flags), shape: [tokens] },
  }
  const expected = lilyForward(operands, { mask: masks.numbers }).y
  for (const [form, mask] of Object.entries(masks)) {
    it(`mask: ${form}`, () => {
      expectSameBits('y', lilyForward(operands, { mask }).y.data, expected.data)
    })
  }

  it('mask: a tensor with the leading dimensions of x', () => {
    const x = { ...operands.x, shape: [2, 3, dIn] }
    const mask = { data: Uint8Array.from(flags), shape: [2, 3] }
    expectSameBits('y', lilyForward({ ...operands, x }, { mask }).y.data, expected.data)
    const data = Uint8Array.of(...mask.data.slice(0, 3), 1, 1, ...mask.data.slice(3))
    const pitched = { data, shape: [2, 3], strides: [5, 1] }
    expectSameBits('y', lilyForward({ ...operands, x }, { mask: pitched }).y.data, expected.data)
  })

  const offsets = [0, 2, 2, 6]
  const sequences = lilyForward(operands, { routing: 'sequence', sequenceOffsets: offsets }).y
  const offsetForms = {
    'an Int32Array': Int32Array.from(offsets),
    'a tensor': { data: Int32Array.from(offsets), shape: [4] },
    "a tensor with ONNX Runtime's names": { data: Int32Array.from(offsets), dims: [4], type: 'int32' },
  }
  for (const [form, sequenceOffsets] of Object.entries(offsetForms)) {
    it(`sequenceOffsets: ${form}`, () => {
      const { y } = lilyForward(operands, { routing: 'sequence', sequenceOffsets })
      expectSameBits('y', y.data, sequences.data)
    })
  }

  const weights = [0.25, 0.5]
  const { router: __, ...routerless } = operands
  const mixed = lilyForward(routerless, { routing: 'fixed', weights }).y
  const weightForms = {
    'a Float32Array': Float32Array.from(weights),
    'a tensor [E]': { data: Float32Array.from(weights), shape: [experts] },
    "a tensor with ONNX Runtime's names": { data: Float32Array.from(weights), dims: [experts], type: 'float32' },
  }
  for (const [form, value] of Object.entries(weightForms)) {
    it(`weights: ${form}`, () => {
      expectSameBits('y', lilyForward(routerless, { routing: 'fixed', weights: value }).y.data, mixed.data)
    })
  }

  /** The advice at the end of the message, applied to an array. */
  function converted(data: ArrayBufferView, use: (data: never) => unknown): unknown {
    const { message } = expectCode('ERR_LILY_DTYPE', () => use(data as never))
    const advice = /(?:with|pass) ((?:new )?\w+(?:\.from)?\([^)]*\))/.exec(message)?.[1]
    const convert = runInThisContext(`(data, view, length) => ${String(advice)}`) as (...args: unknown[]) => unknown
    return convert(data, data, tokens)
  }

  const others: [name: 'mask' | 'sequenceOffsets' | 'weights', data: ArrayBufferView][] = [
    ['mask', Uint8ClampedArray.from(flags)],
    ['mask', Int8Array.from(flags)],
    ['mask', Uint16Array.from(flags)],
    ['mask', Float64Array.from(flags)],
    ['mask', BigInt64Array.from(flags, BigInt)],
    ['sequenceOffsets', Uint8Array.from(offsets)],
    ['sequenceOffsets', Uint16Array.from(offsets)],
    ['sequenceOffsets', Uint32Array.from(offsets)],
    ['sequenceOffsets', Float32Array.from(offsets)],
    ['sequenceOffsets', BigUint64Array.from(offsets, BigInt)],
    ['weights', Float64Array.from(weights)],
  ]
  it.each(others)('%s in %O: the advice to convert it is right', (name, data) => {
    const call = {
      mask: (mask: never) => lilyForward(operands, { mask }),
      sequenceOffsets: (given: never) => lilyForward(operands, { routing: 'sequence', sequenceOffsets: given }),
      weights: (given: never) => lilyForward(routerless, { routing: 'fixed', weights: given }),
    }[name]
    const same = { mask: expected, sequenceOffsets: sequences, weights: mixed }[name]
    const shape = [(data as Uint8Array).length]
    expectSameBits('y', call(converted(data, call) as never).y.data, same.data)
    const inTensor = (value: object) => call({ data: value, shape } as never)
    expectSameBits('y', inTensor(converted(data, inTensor) as object).y.data, same.data)
  })

  it('the memory of a DataView is viewed as the advice says', () => {
    const bytes = new DataView(Float32Array.of(2, 2, ...new Float32Array(tokens).fill(1)).buffer, 8)
    const view = converted(bytes, (data) => tensor(data, [tokens])) as Float32Array
    expect(view).toEqual(new Float32Array(tokens).fill(1))
    expect(view.buffer).toBe(bytes.buffer)
  })

  it('later changes of the small operands do not affect backward', () => {
    const { dy } = smallOperands()
    const changing = { mask: Uint8Array.from(flags), sequenceOffsets: Int32Array.from(offsets) }
    const kept = { mask: flags, sequenceOffsets: offsets }
    const run = (options: typeof changing | typeof kept, change: () => void) => {
      const { saved } = lilyForward(operands, { routing: 'sequence', ...options })
      change()
      return lilyBackward({ dy }, saved)
    }
    const changed = run(changing, () => changing.sequenceOffsets.set([0, 6, 6, 6]))
    const { dx } = run(kept, () => undefined)
    expectSameBits('dx', changed.dx.data, dx.data)
  })
})

describe('Tensor', () => {
  it('wraps memory without a copy', () => {
    const data = Float32Array.of(1, 2, 3, 4, 5, 6)
    const wrapped = tensor(data, [2, 3])
    expect(wrapped).toBeInstanceOf(Tensor)
    expect(wrapped.shape).toEqual([2, 3])
    expect(wrapped.dtype).toBe('float32')
    expect(wrapped.device).toEqual({ type: 'cpu', id: 0 })
    expect(wrapped.data.buffer).toBe(data.buffer)
  })

  it('has data of the length that its shape and pitch need, in the memory of a longer array', () => {
    const { dy: _, ...operands } = smallOperands()
    const exact = filled(0, tokens, dOut)
    expect(lilyForward({ ...operands, y: exact }).y.data).toBe(exact.data)
    const data = new Float32Array(100)
    const window = lilyForward({ ...operands, y: { data, shape: [tokens, dOut], byteOffset: 0 } }).y.data
    expectSameBits('y', window, exact.data)
    expect(window.buffer).toBe(data.buffer)
    const pitched = { data, shape: [tokens, dOut], strides: [dOut + 3, 1], byteOffset: 8 }
    const { length, byteOffset } = lilyForward({ ...operands, y: pitched }).y.data
    expect({ length, byteOffset }).toEqual({ length: (tokens - 1) * (dOut + 3) + dOut, byteOffset: 8 })
  })

  it('results are tensors; given outputs are returned', () => {
    const { dy, ...operands } = smallOperands()
    const y = tensor(new Float32Array(tokens * dOut), [tokens, dOut])
    const result = lilyForward({ ...operands, y })
    expect(result.y.data.buffer).toBe(y.data.buffer)
    const dx = filled(0, tokens, dIn)
    const gradients = lilyBackward({ dy, dx }, result.saved)
    expect(gradients.dx.data.buffer).toBe(dx.data.buffer)
    for (const value of [gradients.da, gradients.db, result.saved.hidden]) expect(value).toBeInstanceOf(Tensor)
  })

  it('new results have separate memory', () => {
    const { dy: _, ...operands } = smallOperands()
    const [first, second] = [lilyForward(operands).y, lilyForward(operands).y]
    numbers(first).fill(7)
    expect(Array.from(second.data)).not.toContain(7)
  })

  it('bfloat16 and float16 are stored as bits in a Uint16Array', () => {
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const half = tensor(Uint16Array.of(0x3f80, 0), [1, 2], dtype)
      expect(half.dtype).toBe(dtype)
      expect(half.data).toBeInstanceOf(Uint16Array)
    }
  })

  it('float16 in a native Float16Array', ({ skip }) => {
    const { Float16Array } = globalThis as { Float16Array?: new (length: number) => HostData }
    if (!Float16Array) skip(`Node ${process.version} has no Float16Array`)
    else expect(tensor(new Float16Array(4), [2, 2]).dtype).toBe('float16')
  })

  it('toHost and to(cpu) return the tensor itself; cuda is not available', async () => {
    const here = tensor(new Float32Array(2), [2])
    expect((await here.toHost()).data.buffer).toBe(here.data.buffer)
    expect(here.to({ type: 'cpu', id: 0 }).data.buffer).toBe(here.data.buffer)
    expectCode('ERR_LILY_DEVICE', () => here.to({ type: 'cpu', id: 3 }))
    expectCode('ERR_LILY_BACKEND_UNAVAILABLE', () => here.to({ type: 'cuda', id: 0 }))
  })

  it('rejects any use after dispose, but not a second dispose', () => {
    const gone = tensor(new Float32Array(6), [2, 3])
    gone.dispose()
    gone.dispose()
    for (const use of [() => gone.shape, () => gone.data, () => gone.dtype, () => gone.to({ type: 'cpu' })]) {
      expectCode('ERR_LILY_DISPOSED', use)
    }
    const { dy, x: inputs, ...rest } = smallOperands()
    const x = tensor(inputs.data, inputs.shape)
    const { saved } = lilyForward({ ...rest, x })
    x.dispose()
    expectCode('ERR_LILY_DISPOSED', () => lilyBackward({ dy }, saved))
  })

  it('has no data once its memory is transferred, and nor has backward', () => {
    const moved = tensor(new Float32Array(6), [2, 3])
    const { dy, router: _, ...rest } = smallOperands()
    const transfer = ({ data: { buffer } }: Tensor) => structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
    transfer(moved)
    expectCode('ERR_LILY_ARGUMENT', () => moved.data)
    for (const name of ['hidden', 'weights'] as const) {
      const { saved } = lilyForward(rest, { routing: 'fixed', weights: [0.5, 0.5] })
      transfer(saved[name])
      const { message } = expectCode('ERR_LILY_ARGUMENT', () => lilyBackward({ dy }, saved))
      expect(message, name).toContain('saved: its ArrayBuffer is detached')
    }
  })

  it('has Symbol.dispose', () => {
    const gone = tensor(new Float32Array(6), [2, 3])
    gone[Symbol.dispose]()
    expectCode('ERR_LILY_DISPOSED', () => gone.data)
    const { saved } = lilyForward(smallForward())
    saved[Symbol.dispose]()
    expectCode('ERR_LILY_DISPOSED', () => saved.hidden)
  })

  it('saved supports several backward calls with retain, until it is disposed of', () => {
    const { dy } = smallOperands()
    const { saved } = lilyForward(smallForward())
    const [first, second] = [1, 2].map(() => lilyBackward({ dy }, saved, { retain: true }))
    expectSameBits('dx', second.dx.data, first.dx.data)
    saved.dispose()
    saved.dispose()
    expectCode('ERR_LILY_DISPOSED', () => lilyBackward({ dy }, saved))
  })

  it('is rejected if data and shape disagree', () => {
    expectCode('ERR_LILY_SHAPE', () => tensor(new Float32Array(5), [2, 3]))
    expectCode('ERR_LILY_SHAPE', () => tensor(new Float32Array(7), [2, 3]))
    expectCode('ERR_LILY_SHAPE', () => tensor(new Float32Array(6), [-2, -3]))
    expectCode('ERR_LILY_DTYPE', () => tensor(new Float64Array(6) as never, [2, 3]))
    // @ts-expect-error: the bits may be bfloat16 or float16
    expectCode('ERR_LILY_DTYPE', () => tensor(new Uint16Array(6), [2, 3]))
    expectCode('ERR_LILY_DTYPE', () => tensor(new Float32Array(6), [2, 3], 'bfloat16'))
  })

  it('shows its first numbers, but no bits of 16-bit types', () => {
    const thirds = Float32Array.from({ length: 8 }, (_, i) => i / 3)
    expect(inspect(tensor(thirds, [2, 4]))).toBe('Tensor { float32 [2, 4] on cpu:0: 0, 0.3333, 0.6667, 1, ... }')
    expect(inspect(tensor(thirds.subarray(0, 2), [2]))).toBe('Tensor { float32 [2] on cpu:0: 0, 0.3333 }')
    expect(inspect(tensor(new Uint16Array(2), [2], 'float16'))).toBe('Tensor { float16 [2] on cpu:0 }')
  })

  it('is called a Tensor where something else is expected', () => {
    const { message } = expectCode('ERR_LILY_ARGUMENT', () =>
      lilyBackward({ dy: tensor([1], [1]) }, tensor([1], [1]) as never),
    )
    expect(message).toContain('got an object of type Tensor')
  })

  it('moves to no device of another type, which the error quotes', () => {
    const to = (device: object) => expectCode('ERR_LILY_DEVICE', () => tensor([1], [1]).to(device as never)).message
    expect(to({ type: 'gpu' })).toContain("got type 'gpu' and id 0")
    expect(to({ type: 'cuda', id: -1 })).toContain("got type 'cuda' and id -1")
    expect(to({})).toContain('got an object of type Object')
  })
})

function smallForward() {
  const { dy: _, ...operands } = smallOperands()
  return operands
}

function expectCode(code: string, action: () => unknown): LilyError {
  let thrown: unknown
  try {
    action()
  } catch (error) {
    thrown = error
  }
  expect(thrown).toBeInstanceOf(LilyError)
  expect((thrown as LilyError).code).toBe(code)
  return thrown as LilyError
}

describe('cast', () => {
  const types = ['float32', 'bfloat16', 'float16'] as const
  // Ties, numbers that round up to a power of two or to an infinity, subnormal ones, and both zeros.
  const special = [
    0,
    -0,
    1 + 2 ** -9,
    1 + 3 * 2 ** -9,
    1 + 2 ** -8,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    1.999,
    65504,
    65519.9,
  ]
  const beyond = [
    65520,
    -98304,
    3.4e38,
    2 ** -24,
    2 ** -25,
    2 ** -25 + 2 ** -36,
    -(2 ** -15),
    1e-40,
    Infinity,
    -Infinity,
  ]
  const values = Float32Array.of(...special, ...beyond, ...gaussian(randomFrom(5), 100))

  it.each<Float>(types)('rounds float32 to %s', (dtype) => {
    const rounded = cast(tensor(values, [4, 30]), dtype)
    expect([rounded.dtype, rounded.shape, rounded.device.type]).toEqual([dtype, [4, 30], 'cpu'])
    expect(rounded.data).toEqual(pack(dtype, values))
    expect(rounded.data).not.toBe(values)
  })

  it.each(types.flatMap((from) => types.map((to) => [from, to] as const)))('converts %s to %s', (from, to) => {
    const data = pack(from, values)
    expect(cast({ data, shape: [120], dtype: from }, to).data).toEqual(pack(to, unpack(from, data)))
  })

  it('converts all numbers of float16, and rounds those beside the middle of two', () => {
    const bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i)
    const exact = Float32Array.from(bits, (half) => getFloat16(new DataView(Uint16Array.of(half).buffer), 0, true))
    expect(cast(tensor(bits, [2 ** 16], 'float16'), 'float32').data).toEqual(exact)
    // The last finite number is followed by 2^16, which is an infinity.
    const middles = exact.slice(0, 0x7c00).map((value, i) => (value + (i === 0x7bff ? 2 ** 16 : exact[i + 1])) / 2)
    const middleBits = new Uint32Array(middles.buffer)
    for (const distance of [-1, 0, 1]) {
      const beside = new Float32Array(middleBits.map((middle) => middle + distance).buffer)
      const signed = beside.map((value, i) => (i % 2 === 0 ? value : -value))
      const view = new DataView(new ArrayBuffer(2))
      const rounded = Uint16Array.from(signed, (value) => {
        setFloat16(view, 0, value)
        return view.getUint16(0)
      })
      expect(cast(tensor(signed, [0x7c00]), 'float16').data).toEqual(rounded)
    }
  })

  it('keeps a NaN, whatever its bits', () => {
    const bits = Uint32Array.of(0x7f800001, 0x7fffffff, 0xff800001, 0xffffffff)
    for (const dtype of types) {
      const there = cast(tensor(new Float32Array(bits.buffer), [4]), dtype)
      expect([...(cast(there, 'float32').data as Float32Array)]).toEqual([NaN, NaN, NaN, NaN])
    }
  })

  it('leaves gaps between rows out, and takes no tokens', () => {
    const data = Float32Array.of(NaN, ...values).subarray(1)
    const strided = { data, shape: [3, 2], strides: [5, 1], byteOffset: 8 }
    expect([...cast(strided, 'float32').data]).toEqual([2, 3, 7, 8, 12, 13].map((i) => values[i]))
    expect(cast(tensor([], [0, 7]), 'bfloat16').shape).toEqual([0, 7])
    expect(cast(tensor([], [2 ** 30, 0]), 'bfloat16').shape, 'no row is visited').toEqual([2 ** 30, 0])
  })

  it('is the advice where float32 numbers are given as 16-bit ones', async () => {
    const numbers = Float32Array.of(1, 2)
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const advice = `leave it out, and convert with cast(tensor, '${dtype}')`
      await expectRefused('ERR_LILY_DTYPE', advice, () => tensor([1, 2], [2], dtype))
      await expectRefused('ERR_LILY_DTYPE', advice, () => tensor(numbers, [2], dtype))
      await expectRefused('ERR_LILY_DTYPE', advice, () => cast({ data: numbers, shape: [2], dtype }, dtype))
    }
    await expectRefused('ERR_LILY_DTYPE', "got 'int32'; pass a typed array", () => tensor([1, 2], [2], 'int32'))
    await expectRefused('ERR_LILY_DTYPE', "got 'int32'; pass that dtype or leave it out", () =>
      tensor(numbers, [2], 'int32'),
    )
  })

  it('refuses a list of numbers that does not fill the shape, and lists in it', async () => {
    for (const [numbers, count] of [
      [[1, 2, 3], 3],
      [[1, 2, 3, 4, 5], 5],
    ] as const) {
      const message = `data: expected a length of 4 for shape [2, 2], got ${count}`
      await expectRefused('ERR_LILY_SHAPE', message, () => tensor(numbers, [2, 2]))
    }
    const rows = [
      [1, 2],
      [3, 4],
    ] as never
    await expectRefused('ERR_LILY_ARGUMENT', 'got an array of 2; pass data.flat(Infinity)', () => tensor(rows, [2, 2]))
  })

  it('refuses other types', async () => {
    const x = tensor([1], [1])
    const expected = "dtype: expected 'float32', 'bfloat16' or 'float16', got "
    for (const dtype of ['int8', 'int32']) {
      await expectRefused('ERR_LILY_DTYPE', `${expected}'${dtype}'`, () => cast(x, dtype as never))
    }
    await expectRefused('ERR_LILY_DTYPE', 'dtype', () => cast(x, undefined as never))
    await expectRefused('ERR_LILY_DTYPE', 'x', () => cast(tensor(Int32Array.of(1), [1]), 'float32'))
    await expectRefused('ERR_LILY_ARGUMENT', 'x', () => cast(new Float32Array(1) as never, 'float16'))
    await expectRefused('ERR_LILY_SHAPE', 'x', () => cast({ data: new Float32Array(1), shape: [2] }, 'float16'))
    x.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'x', () => cast(x, 'float16'))
  })
})
