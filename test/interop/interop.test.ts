/**
 * Tensors of other libraries with the libraries themselves; and the programs of docs/interop.md, which pass results back to
 * them. test/tensor/conventions.test.ts has the forms of tensors without the libraries, and ndarray.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { lilyBackward, lilyForward, type MaskLike, type TensorLike } from '../../lib/index.js'
import { expectSameBits } from '../support/compare.js'
import { buildAddon } from '../dlpack/exchange.js'
import { interopProject, requireLibrary } from '../support/interop.js'
import type { OrtTensor } from '../support/onnx-sessions.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, sizes, smallOperands } from '../support/small.js'

const { tokens, dIn, dOut } = sizes
const { x, a, router, b, dy } = smallOperands()
const rest = { a, router, b }
const expected = lilyForward({ x, ...rest })
const refused = (code: string, message: string, given: unknown) =>
  expectRefused(`ERR_LILY_${code}`, message, () => lilyForward({ x: given as TensorLike, ...rest }))

let folder: string
beforeAll(() => {
  folder = interopProject()
}, 600_000)

/** What onnxruntime-node and Transformers.js have. */
interface Tensors {
  Tensor: new (type: string, data: ArrayBufferView, dims: readonly number[]) => OrtTensor
}

describe.each(['onnxruntime-node', '@huggingface/transformers'])('%s', (library) => {
  let Tensor: Tensors['Tensor']
  beforeAll(() => {
    ;({ Tensor } = requireLibrary(library) as Tensors)
  })

  it('its tensors are operands, inputs and outputs', () => {
    const y = new Tensor('float32', new Float32Array(tokens * dOut).fill(1), [tokens, dOut])
    const result = lilyForward({ x: new Tensor('float32', x.data, x.shape), ...rest, y })
    const { y: same } = lilyForward({ x, ...rest, y: filled(1, tokens, dOut) })
    expectSameBits('y', y.data, same.data)
    expect(result.y.data.buffer).toBe(y.data.buffer)
    const { dx } = lilyBackward({ dy: new Tensor('float32', dy.data, dy.shape) }, result.saved)
    expectSameBits('dx', dx.data, lilyBackward({ dy }, expected.saved, { retain: true }).dx.data)
  })

  it('float16, and masks of bool', () => {
    const half = (data: Uint16Array, dims: readonly number[]) => new Tensor('float16', data, dims)
    const one = 0x3c00 // the bits of 1
    const { y } = lilyForward({
      x: half(new Uint16Array(6).fill(one), [2, 3]),
      a: half(new Uint16Array(3).fill(one), [1, 3]),
      router: half(new Uint16Array(2), [2, 1]),
      b: half(new Uint16Array(4).fill(one), [2, 1, 2]),
    })
    expect([y.dtype, Array.from(y.data, Number)]).toEqual(['float16', [0x4200, 0x4200, 0x4200, 0x4200]]) // 3
    const flags = [1, 0, 1, 1, 0, 1]
    const mask = new Tensor('bool', Uint8Array.from(flags), [tokens]) as MaskLike
    const same = lilyForward({ x, ...rest }, { mask: flags }).y.data
    expectSameBits('y', lilyForward({ x, ...rest }, { mask }).y.data, same)
  })

  it('what it refuses says what to do', async () => {
    await refused('DTYPE', 'Float32Array.from(data)', new Tensor('float64', Float64Array.from(x.data), x.shape))
    const mask = new Tensor('int64', new BigInt64Array(tokens), [tokens]) as MaskLike
    await expectRefused('ERR_LILY_DTYPE', 'Uint8Array.from(data, Number)', () => lilyForward({ x, ...rest }, { mask }))
  })
})

it('@stdlib/ndarray: slices', async () => {
  type Constructor = new (dtype: string, data: ArrayBufferView, ...layout: unknown[]) => object
  const FancyArray = requireLibrary('@stdlib/ndarray/ctor') as Constructor
  const slice = requireLibrary('@stdlib/ndarray/slice') as (array: object, at: object) => object
  const Slice = requireLibrary('@stdlib/slice/ctor') as new (...range: (number | null)[]) => object
  const MultiSlice = requireLibrary('@stdlib/slice/multi') as new (...slices: (object | null)[]) => object
  const padded = Float32Array.from([...new Float32Array(dIn).fill(NaN), ...x.data])
  const whole = new FancyArray('float32', padded, [tokens + 1, dIn], [dIn, 1], 0, 'row-major')
  const view = slice(whole, new MultiSlice(new Slice(1, null), null))
  expectSameBits('y', lilyForward({ x: view as never, ...rest }).y.data, expected.y.data)
  await refused('SHAPE', 'row-major copy', slice(whole, new MultiSlice(new Slice(null, 0, -1), null)))
})

it('koffi: a pointer alone is refused: with memory of the host it needs a view, with device memory a device', async () => {
  const koffi = requireLibrary('koffi') as {
    alloc(type: string, count: number): bigint
    free(pointer: bigint): void
    address(pointer: unknown): bigint
  }
  const pointer = koffi.alloc('float', x.data.length)
  await refused('ARGUMENT', 'data as', { data: pointer, shape: x.shape })
  const host = { ptr: koffi.address(pointer), shape: x.shape, dtype: 'float32' }
  await refused('DEVICE', 'a typed array over it', { ...host, device: { type: 'cpu' } })
  // On a device it is an operand, which this test lacks: only the other operands are refused.
  await refused('DEVICE', 'a: expected device cuda:0, as x has', { ...host, device: { type: 'cuda', id: 0 } })
  koffi.free(pointer)
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
