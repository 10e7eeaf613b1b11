/** Tensors of other libraries with the libraries themselves, in both directions; and the examples of docs/interop.md. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { lilyBackward, lilyForward, type MaskLike, type TensorLike } from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { buildAddon } from '../dlpack/exchange.js'
import { interopProject, requireLibrary } from '../support/interop.js'
import { embedding, matrixProduct } from '../support/onnx.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, sizes, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut } = sizes
const { x, a, router, b, dy } = smallOperands()
const rest = { a, router, b }
const expected = lilyForward({ x, ...rest })
const expectedY = expected.y.data as Float32Array
const refused = (code: string, message: string, given: unknown) =>
  expectRefused(`ERR_LILY_${code}`, message, () => lilyForward({ x: given as TensorLike, ...rest }))

let folder: string
beforeAll(() => {
  folder = interopProject()
}, 600_000)

/** A tensor of onnxruntime-common. */
interface OrtTensor {
  readonly data: Float32Array
  readonly dims: readonly number[]
  readonly type: string
}
interface Ort {
  Tensor: new (type: string, data: ArrayBufferView, dims: readonly number[]) => OrtTensor
  InferenceSession: { create(model: Uint8Array): Promise<Session> }
}
interface Session {
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
}

/** x W in float64. */
function product(rows: ArrayLike<number>, w: Float32Array, depth: number, columns: number): number[] {
  return Array.from({ length: (rows.length / depth) * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns]
    let sum = 0
    for (let k = 0; k < depth; k++) sum += rows[row * depth + k] * w[k * columns + column]
    return sum
  })
}

function expectClose(actual: ArrayLike<number>, exact: readonly number[]): void {
  expect(actual.length).toBe(exact.length)
  for (const [i, value] of exact.entries())
    expect(Math.abs(actual[i] - value)).toBeLessThan(1e-5 * (1 + Math.abs(value)))
}

describe('onnxruntime-node', () => {
  const w = gaussian(randomFrom(5), dIn * dOut)
  const back = gaussian(randomFrom(6), dOut * dIn)
  let ort: Ort
  beforeAll(() => {
    ort = requireLibrary('onnxruntime-node') as Ort
  })

  it('an adapter between two sessions, and its backward', async () => {
    const base = await ort.InferenceSession.create(matrixProduct(w, dIn, dOut))
    const next = await ort.InferenceSession.create(matrixProduct(back, dOut, dIn))
    const input = new ort.Tensor('float32', x.data, x.shape)
    const { y: baseOutput } = await base.run({ x: input })
    const before = Array.from(baseOutput.data)
    expectClose(before, product(x.data, w, dIn, dOut))

    const { y, saved } = lilyForward({ x: input, ...rest, y: baseOutput })
    expect((y.data as Float32Array).buffer).toBe(baseOutput.data.buffer) // it was added in place
    expectClose(
      baseOutput.data,
      before.map((value, i) => value + expectedY[i]),
    )
    const { y: output } = await next.run({ x: new ort.Tensor('float32', y.data, y.shape) })
    expectClose(output.data, product(baseOutput.data, back, dOut, dIn))

    const gradients = lilyBackward({ dy: new ort.Tensor('float32', dy.data, dy.shape) }, saved)
    expectSameBits('dx', gradients.dx.data, lilyBackward({ dy }, expected.saved).dx.data)
    const { y: ofGradient } = await base.run({ x: new ort.Tensor('float32', gradients.dx.data, gradients.dx.shape) })
    expectClose(ofGradient.data, product(gradients.dx.data, w, dIn, dOut))
  })

  it('float16, and masks of bool, uint8, int32 and float32', () => {
    const half = (data: Uint16Array, dims: readonly number[]) => new ort.Tensor('float16', data, dims)
    const one = 0x3c00 // the bits of 1
    const { y } = lilyForward({
      x: half(new Uint16Array(6).fill(one), [2, 3]),
      a: half(new Uint16Array(3).fill(one), [1, 3]),
      router: half(new Uint16Array(2), [2, 1]),
      b: half(new Uint16Array(4).fill(one), [2, 1, 2]),
    })
    expect([y.dtype, Array.from(y.data, Number)]).toEqual(['float16', [0x4200, 0x4200, 0x4200, 0x4200]]) // 3
    const flags = [1, 0, 1, 1, 0, 1]
    const same = lilyForward({ x, ...rest }, { mask: flags }).y.data
    for (const [type, data] of [
      ['bool', Uint8Array.from(flags)],
      ['uint8', Uint8Array.from(flags)],
      ['int32', Int32Array.from(flags)],
      ['float32', Float32Array.from(flags)],
    ] as const) {
      const mask = new ort.Tensor(type, data, [tokens]) as MaskLike
      expectSameBits(type, lilyForward({ x, ...rest }, { mask }).y.data, same)
    }
  })

  it('what it refuses says what to do', async () => {
    await refused('DTYPE', 'Float32Array.from(data)', new ort.Tensor('float64', Float64Array.from(x.data), x.shape))
    const mask = new ort.Tensor('int64', new BigInt64Array(tokens), [tokens])
    await expectRefused('ERR_LILY_DTYPE', 'Uint8Array.from(data, Number)', () =>
      lilyForward({ x, ...rest }, { mask: mask as MaskLike }),
    )
  })
})

describe('Transformers.js', () => {
  interface TransformersTensor extends OrtTensor {
    transpose(...axes: number[]): TransformersTensor
  }
  interface Transformers {
    Tensor: new (type: string, data: ArrayBufferView, dims: readonly number[]) => TransformersTensor
    AutoModel: {
      from_pretrained(
        name: string,
        options: object,
      ): Promise<(inputs: object) => Promise<{ last_hidden_state: TransformersTensor }>>
    }
    env: { localModelPath: string; allowRemoteModels: boolean }
  }
  let transformers: Transformers
  beforeAll(() => {
    transformers = requireLibrary('@huggingface/transformers') as Transformers
  })

  it('its tensors are operands, inputs and outputs', () => {
    const { Tensor } = transformers
    const given = new Tensor('float32', x.data, x.shape)
    const y = new Tensor('float32', new Float32Array(tokens * dOut).fill(1), [tokens, dOut])
    const result = lilyForward({ x: given, ...rest, y })
    expect((result.y.data as Float32Array).buffer).toBe(y.data.buffer)
    expectSameBits('y', y.data, lilyForward({ x, ...rest, y: filled(1, tokens, dOut) }).y.data)
    const transposed = new Tensor('float32', x.data, [dIn, tokens]).transpose(1, 0) // a copy of Transformers.js
    expectSameBits(
      'y',
      lilyForward({ x: transposed, ...rest }).y.data,
      lilyForward({ x: { data: transposed.data, shape: x.shape }, ...rest }).y.data,
    )
  })

  it('what a model returns is adapted and goes back into a session', async () => {
    const name = 'encoder'
    const table = gaussian(randomFrom(7), 10 * dIn)
    mkdirSync(join(folder, 'models', name, 'onnx'), { recursive: true })
    writeFileSync(join(folder, 'models', name, 'config.json'), '{ "model_type": "bert" }')
    writeFileSync(join(folder, 'models', name, 'onnx', 'model.onnx'), embedding(table, 10, dIn))
    const { AutoModel, Tensor, env } = transformers
    Object.assign(env, { localModelPath: join(folder, 'models'), allowRemoteModels: false })
    const model = await AutoModel.from_pretrained(name, { dtype: 'fp32', local_files_only: true })

    const ids = [3, 1, 4, 1, 5, 9]
    const flags = [1, 1, 0, 1, 1, 1]
    const attentionMask = new Tensor('int64', BigInt64Array.from(flags, BigInt), [2, 3])
    const inputs = {
      input_ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [2, 3]),
      attention_mask: attentionMask,
    }
    const { last_hidden_state: hidden } = await model(inputs)
    expect(hidden.dims).toEqual([2, 3, dIn])

    const mask = { data: Int32Array.from(attentionMask.data, Number), shape: [2, 3] }
    const { y } = lilyForward({ x: hidden, ...rest }, { routing: 'sequence', mask })
    const rows = Float32Array.from(ids.flatMap((id) => Array.from(table.subarray(id * dIn, (id + 1) * dIn))))
    const same = lilyForward({ x: { data: rows, shape: [2, 3, dIn] }, ...rest }, { routing: 'sequence', mask: flags })
    expectSameBits('y', y.data, same.y.data)

    const ort = requireLibrary('onnxruntime-node') as Ort
    const w = gaussian(randomFrom(8), dOut * 2)
    const head = await ort.InferenceSession.create(matrixProduct(w, dOut, 2))
    const pooled = new Tensor('float32', y.data, [tokens, dOut]) as unknown as { ort_tensor: OrtTensor }
    const { y: scores } = await head.run({ x: pooled.ort_tensor })
    expectClose(scores.data, product(y.data, w, dOut, 2))
  })
})

describe('ndarray', () => {
  interface NdArray {
    data: Float32Array
    shape: number[]
    stride: number[]
    offset: number
    transpose(...axes: number[]): NdArray
    step(...steps: number[]): NdArray
    lo(...at: number[]): NdArray
    hi(...at: number[]): NdArray
    get(...at: number[]): number
  }
  let ndarray: (data: Float32Array, shape: readonly number[], stride?: readonly number[]) => NdArray
  beforeAll(() => {
    ndarray = requireLibrary('ndarray') as typeof ndarray
  })

  it('views with evenly spaced rows are operands', () => {
    const wide = new Float32Array((tokens + 1) * (dIn + 2)).fill(NaN)
    for (let t = 0; t < tokens; t++) wide.set(x.data.subarray(t * dIn, (t + 1) * dIn), (t + 1) * (dIn + 2) + 1)
    const window = ndarray(wide, [tokens + 1, dIn + 2])
      .lo(1, 1)
      .hi(tokens, dIn)
    expectSameBits('y', lilyForward({ x: window, ...rest }).y.data, expectedY)
    const even = ndarray(wide, [tokens + 1, dIn + 2])
      .lo(1, 1)
      .hi(tokens, dIn)
      .step(2, 1)
    const rows = [0, 2, 4].flatMap((t) => Array.from(x.data.subarray(t * dIn, (t + 1) * dIn)))
    const same = lilyForward({ x: { data: Float32Array.from(rows), shape: [3, dIn] }, ...rest })
    expectSameBits('y', lilyForward({ x: even, ...rest }).y.data, same.y.data)
  })

  it('transposed views and negative steps are refused', async () => {
    await refused('SHAPE', 'row-major copy', ndarray(x.data, [dIn, tokens]).transpose(1, 0))
    await refused('SHAPE', 'row-major copy', ndarray(x.data, x.shape).step(-1, 1))
    await refused('SHAPE', 'row-major copy', ndarray(x.data, x.shape).step(1, -1))
  })

  it('results become an ndarray over the same memory', () => {
    const { y } = lilyForward({ x, ...rest })
    const array = ndarray(y.data as Float32Array, y.shape, y.strides)
    expect([array.data === y.data, array.get(2, 1)]).toEqual([true, expectedY[2 * dOut + 1]])
  })
})

describe('@stdlib/ndarray', () => {
  type StdArray = Pick<TensorLike & { offset: number; strides: number[] }, 'offset' | 'strides'>
  type Constructor = new (
    dtype: string,
    data: ArrayBufferView,
    shape: readonly number[],
    strides: readonly number[],
    offset: number,
    order: string,
  ) => StdArray & { get(...at: number[]): number }
  let FancyArray: Constructor
  let slice: (array: object, at: object) => StdArray
  let Slice: new (...range: (number | null)[]) => object
  let MultiSlice: new (...slices: (object | null)[]) => object
  beforeAll(() => {
    FancyArray = requireLibrary('@stdlib/ndarray/ctor') as typeof FancyArray
    slice = requireLibrary('@stdlib/ndarray/slice') as typeof slice
    Slice = requireLibrary('@stdlib/slice/ctor') as typeof Slice
    MultiSlice = requireLibrary('@stdlib/slice/multi') as typeof MultiSlice
  })
  const padded = Float32Array.from([...new Float32Array(dIn).fill(NaN), ...x.data])

  it('offsets and slices are honoured', () => {
    const whole = new FancyArray('float32', padded, [tokens + 1, dIn], [dIn, 1], 0, 'row-major')
    const views = [
      new FancyArray('float32', padded, x.shape, [dIn, 1], dIn, 'row-major'),
      slice(whole, new MultiSlice(new Slice(1, null), null)),
    ]
    for (const view of views) {
      expect(view.offset).toBe(dIn)
      expectSameBits('y', lilyForward({ x: view as never, ...rest }).y.data, expectedY)
    }
  })

  it('column-major arrays and slices that run backwards are refused', async () => {
    await refused('SHAPE', 'row-major copy', new FancyArray('float32', x.data, x.shape, [1, tokens], 0, 'column-major'))
    const whole = new FancyArray('float32', x.data, x.shape, [dIn, 1], 0, 'row-major')
    const backwards = slice(whole, new MultiSlice(new Slice(null, null, -1), null))
    expect(backwards.strides).toEqual([-dIn, 1])
    await refused('SHAPE', 'row-major copy', backwards)
  })

  it('results become an array over the same memory', () => {
    const { y } = lilyForward({ x, ...rest })
    const array = new FancyArray('float32', y.data, y.shape, y.strides, 0, 'row-major')
    expect(array.get(2, 1)).toBe(expectedY[2 * dOut + 1])
  })
})

describe('koffi', () => {
  interface Koffi {
    alloc(type: string, count: number): bigint
    free(pointer: bigint): void
    address(pointer: unknown): bigint
    view(pointer: bigint, bytes: number): ArrayBuffer
    decode(pointer: bigint, type: string, count: number): ArrayLike<number>
    load(name: string): { func(declaration: string): (...args: unknown[]) => unknown }
  }
  let koffi: Koffi
  beforeAll(() => {
    koffi = requireLibrary('koffi') as Koffi
  })

  it('a view of its memory is an operand, input and output', () => {
    const [from, to] = [koffi.alloc('float', x.data.length), koffi.alloc('float', tokens * dOut)]
    const [xView, yView] = [
      new Float32Array(koffi.view(from, x.data.byteLength)),
      new Float32Array(koffi.view(to, 4 * tokens * dOut)),
    ]
    xView.set(x.data)
    lilyForward(
      { x: { data: xView, shape: x.shape }, ...rest, y: { data: yView, shape: [tokens, dOut] } },
      { accumulate: false },
    )
    expect(Array.from(koffi.decode(to, 'float', tokens * dOut))).toEqual(Array.from(expectedY))
    koffi.free(from)
    koffi.free(to)
  })

  it('a result is an argument of a foreign function', () => {
    const { y } = lilyForward({ x, ...rest })
    const copy = new Float32Array(tokens * dOut)
    koffi.load('libc.so.6').func('void *memcpy(_Out_ void *to, const void *from, size_t bytes)')(
      copy,
      y.data,
      copy.byteLength,
    )
    expect(copy).toEqual(expectedY)
  })

  it('a pointer alone is refused: with memory of the host it needs a view, with device memory a device', async () => {
    const pointer = koffi.alloc('float', x.data.length)
    await refused('ARGUMENT', 'data as', { data: pointer, shape: x.shape })
    const host = { ptr: koffi.address(pointer), shape: x.shape, dtype: 'float32' }
    await refused('DEVICE', 'a typed array over it', { ...host, device: { type: 'cpu' } })
    // On a device it is an operand, which this test lacks: only the other operands are refused.
    await refused('DEVICE', 'a: expected device cuda:0, as x has', { ...host, device: { type: 'cuda', id: 0 } })
    koffi.free(pointer)
  })
})

describe('docs/interop.md', () => {
  const page = readFileSync(join(packageRoot, 'docs/interop.md'), 'utf8')
  const blocks = [...page.matchAll(/^```(\w+)\n(.*?)^```/gms)].map(([, language, source]) => ({ language, source }))
  /** The programs, each followed by its output. */
  const all = blocks.flatMap(({ language, source }, i) =>
    language === 'js' ? [[source.split('\n')[0], source, blocks[i + 1].source]] : [],
  )
  /** Those of pages are in webgpu.test.ts. */
  const programs = all.filter(([, source]) => !source.includes('createLily'))

  beforeAll(() => {
    buildAddon(join(packageRoot, 'examples', 'dlpack', 'dlpack.c'), folder)
  })

  it('has programs and outputs only', () => {
    expect(programs.length).toBeGreaterThanOrEqual(4)
    expect(blocks.map(({ language }) => language)).toEqual(all.flatMap(() => ['js', 'text']))
  })

  it.each(programs)('%s', (_, source, output) => {
    writeFileSync(join(folder, 'example.mjs'), source)
    expect(execFileSync(process.execPath, ['example.mjs'], { cwd: folder, encoding: 'utf8' })).toBe(output)
  })
})

it('types: tensors of the libraries are operands of TypeScript', () => {
  const source = `import { lilyForward, LilyModel, tensor } from 'lily-kernels'
import { inject } from 'lily-kernels/onnx'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { Tensor as TransformersTensor } from '@huggingface/transformers'
const a = tensor([1, 1, 1], [1, 3])
const b = tensor([1, 2], [1, 1, 2])
const { y } = lilyForward({ x: new Tensor('float32', new Float32Array(3), [1, 3]), a, b }, { routing: 'uniform' })
lilyForward({ x: new TransformersTensor('float32', new Float32Array(3), [1, 3]), a, b }, { routing: 'uniform' })
new Tensor('float32', y.data as Float32Array, y.shape)
const adapter = await LilyModel.fromPretrained('adapter')
const injected = await inject(new Uint8Array(), adapter)
const session = await InferenceSession.create(injected.bytes)
await session.run({ x: new Tensor('float32', [1], [1]), ...(await injected.feeds(adapter, Tensor)) })
const feeds: Record<string, TransformersTensor> = await injected.feeds(null, TransformersTensor)
`
  writeFileSync(join(folder, 'types.mts'), source)
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext']
  const tsc = join(packageRoot, 'node_modules', 'typescript', 'bin', 'tsc')
  execFileSync(process.execPath, [tsc, ...options, 'types.mts'], { cwd: folder, stdio: 'inherit' })
})
