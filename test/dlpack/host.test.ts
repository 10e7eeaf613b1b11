/**
 * Tensors of DLPack in host memory, exchanged with a second addon that counts the calls of deleters.
 *
 * @asan
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  type DType,
  fromDLPack,
  type HostData,
  lilyBackward,
  lilyForward,
  lilyForwardAsync,
  type LilySaved,
  LoraModel,
  type Tensor,
  tensor,
  toDLPack,
} from '../../lib/index.js'
import { collect } from '../support/collect.js'
import { expectSameBits } from '../support/compare.js'
import { buildAddon, DLPACK_TYPES, loadAddon, type Made, made, type Taken } from './exchange.js'
import { expectRefused } from '../refusals/refused.js'
import { filled, sizes, smallOperands } from '../support/small.js'
import { temporaryFolder } from '../support/temporary.js'

const path = buildAddon(fileURLToPath(new URL('programs/dlpack.c', import.meta.url)), temporaryFolder())
const addon = loadAddon(path)

const { tokens, dIn, dOut } = sizes
const { x, a, router, b, dy } = smallOperands()
const rest = { a, router, b }
const expected = lilyForward({ x, ...rest })

/** Deletions of the tensors that were produced after `before` ones. */
const deletionsSince = (before: number) => addon.deletions().slice(before)
const produce = (changes: Partial<Made> = {}) => addon.produce(made(x.data, x.shape, changes))
const take = (capsule: object): Taken => addon.take(capsule) ?? expect.fail('the capsule has no tensor')

/** x as rows of a wider matrix of NaN. */
const [width, left] = [dIn + 3, 2]
const wide = new Float32Array(tokens * width).fill(NaN)
for (let t = 0; t < tokens; t++) wide.set(x.data.subarray(t * dIn, (t + 1) * dIn), t * width + left)
const wideBytes = wide.buffer

describe('fromDLPack', () => {
  const layouts: [string, Partial<Made>][] = [
    ['without strides', {}],
    ['with strides', { strides: [dIn, 1] }],
    [
      'with rows that have a pitch, from a byte offset on',
      { data: wideBytes, strides: [width, 1], byteOffset: 4 * left },
    ],
    ['with three dimensions', { shape: [2, tokens / 2, dIn] }],
    ['with three dimensions and strides', { shape: [2, tokens / 2, dIn], strides: [(tokens / 2) * dIn, dIn, 1] }],
    ['with four dimensions', { shape: [1, 2, tokens / 2, dIn], strides: [-7, (tokens / 2) * dIn, dIn, 1] }],
    ['in pinned memory', { deviceType: 3 }],
    ['of a later minor version', { minor: 99 }],
    ['with flags that say that it is a copy', { flags: 2 }],
  ]
  it.each(layouts)('takes a tensor %s', (_, changes) => {
    const imported = fromDLPack(produce(changes))
    expect(imported.shape).toEqual(changes.shape ?? x.shape)
    expect(imported.device).toEqual({ type: 'cpu', id: 0 })
    const { y, saved } = lilyForward({ x: imported, ...rest })
    expectSameBits('y', y.data, expected.y.data)
    const gradients = lilyBackward({ dy }, saved)
    expectSameBits('da', gradients.da.data, lilyBackward({ dy }, expected.saved, { retain: true }).da.data)
  })

  it.each<[DType, HostData]>([
    ['float32', Float32Array.of(1, -2, NaN, 4)],
    ['float16', Uint16Array.of(1, 2, 3, 0xffff)],
    ['bfloat16', Uint16Array.of(1, 2, 3, 0xffff)],
    ['int32', Int32Array.of(1, -2, 3, 2 ** 31 - 1)],
    ['uint8', Uint8Array.of(1, 2, 3, 255)],
  ])('takes %s', (dtype, data) => {
    const [code, bits] = DLPACK_TYPES[dtype]
    const imported = fromDLPack(addon.produce(made(data, [2, 2], { code, bits })))
    expect([imported.dtype, imported.shape, imported.strides]).toEqual([dtype, [2, 2], [2, 1]])
    expectSameBits(dtype, imported.data, data)
  })

  it('takes bool as a mask, and int32 as offsets', () => {
    const mask = Uint8Array.of(1, 0, 1, 1, 0, 1)
    const offsets = Int32Array.of(0, 2, 6)
    const { y } = lilyForward(
      { x, ...rest },
      {
        routing: 'sequence',
        mask: fromDLPack(addon.produce(made(mask, [tokens], { code: 6, bits: 8 }))),
        sequenceOffsets: fromDLPack(addon.produce(made(offsets, [3], { code: 0, bits: 32 }))),
      },
    )
    const same = lilyForward({ x, ...rest }, { routing: 'sequence', mask, sequenceOffsets: offsets })
    expectSameBits('y', y.data, same.y.data)
  })

  it('takes vectors and tensors without elements', () => {
    const vector = fromDLPack(produce({ shape: [5] }))
    expectSameBits('vector', vector.data, x.data.subarray(0, 5))
    const before = addon.deletions().length
    for (const shape of [[0], [0, 3], [3, 0]]) {
      const empty = fromDLPack(addon.produce({ ...made(x.data, shape), data: undefined, address: 0n }))
      expect([empty.shape, empty.data.length]).toEqual([shape, 0])
    }
    expect(deletionsSince(before)).toEqual([1, 1, 1]) // there is nothing to keep
  })

  it('uses the memory in place', () => {
    const base = filled(1, tokens, dOut)
    const y = fromDLPack(addon.produce(made(base.data, base.shape)))
    const { data } = y
    const result = lilyForward({ x, ...rest, y })
    expect(result.y).toBe(y)
    const plus = lilyForward({ x, ...rest, y: filled(1, tokens, dOut) })
    expectSameBits('y', data, plus.y.data)
  })

  it('works for the Async forms', async () => {
    const pending = lilyForwardAsync({ x: fromDLPack(produce()), ...rest })
    await collect()
    expectSameBits('y', (await pending).y.data, expected.y.data)
  })
})

describe('what fromDLPack refuses', () => {
  it.each<[string, Partial<Made>, string, string]>([
    ['a scalar', { shape: [] }, 'SHAPE', 'at least one dimension'],
    ['rows that run backwards', { strides: [-dIn, 1] }, 'SHAPE', 'row pitch'],
    ['columns that run backwards', { strides: [dIn, -1] }, 'SHAPE', '1 as the last stride'],
    ['a transposed matrix', { shape: [dIn, tokens], strides: [1, dIn] }, 'SHAPE', '1 as the last stride'],
    ['one row for all', { strides: [0, 1] }, 'SHAPE', 'row pitch'],
    ['uneven rows', { shape: [2, 3, dIn], strides: [1, dIn, 1] }, 'SHAPE', 'evenly spaced'],
    ['a negative size', { shape: [-1, dIn] }, 'SHAPE', 'size -1'],
    ['a size beyond 2^53', { shape: [1, 2 ** 60] }, 'SHAPE', 'dimension 1'],
    ['a stride beyond 2^53', { strides: [2 ** 60, 1] }, 'SHAPE', 'dimension 0'],
    ['sizes whose product is beyond 2^53', { shape: [2 ** 40, 2 ** 40] }, 'SHAPE', '2^53'],
    ['no dimensions of a tensor', { ndim: -1 }, 'ARGUMENT', '-1 dimensions'],
    ['too many dimensions', { ndim: 65 }, 'ARGUMENT', '65 dimensions'],
    ['elements without data', { data: undefined, address: 0n }, 'ARGUMENT', 'no data'],
    ['a half element', { byteOffset: 2, shape: [1, dIn] }, 'ARGUMENT', 'multiples of 4'],
    ['float64', { code: 2, bits: 64 }, 'DTYPE', '64 bits'],
    ['int64', { code: 0, bits: 64 }, 'DTYPE', 'type code 0 of 64 bits and 1 lane;'],
    ['complex numbers', { code: 5, bits: 32 }, 'DTYPE', 'type code 5'],
    ['vectors', { lanes: 4, shape: [1, 2] }, 'DTYPE', '4 lanes'],
    ['memory of Metal', { deviceType: 8 }, 'DEVICE', 'device type 8'],
    ['memory of ROCm', { deviceType: 10 }, 'DEVICE', 'device type 10'],
    ['device -1', { deviceType: 2, deviceId: -1 }, 'DEVICE', 'ID -1'],
    ['a CUDA device that is not there', { deviceType: 2 }, 'BACKEND_UNAVAILABLE', 'cuda:0 is not available'],
  ])('%s; the capsule keeps the tensor', async (_, changes, code, message) => {
    const before = addon.deletions().length
    const capsule = produce(changes)
    const error = await expectRefused(`ERR_LILY_${code}`, 'capsule: ', () => fromDLPack(capsule))
    expect([error.argument, error.message]).toEqual(['capsule', expect.stringContaining(message)])
    expect(deletionsSince(before)).toEqual([0])
    expect(take(capsule).index).toBeGreaterThanOrEqual(0)
  })

  it('a capsule that was consumed, by either side', async () => {
    const capsule = produce()
    fromDLPack(capsule)
    await expectRefused('ERR_LILY_ARGUMENT', 'taken before', () => fromDLPack(capsule))
    expect(addon.take(capsule)).toBeUndefined()
    const other = toDLPack(x)
    expect(addon.take(other)).toBeDefined()
    await expectRefused('ERR_LILY_ARGUMENT', 'taken before', () => fromDLPack(other))
  })

  it('an External without the tag, or with another one', async () => {
    const before = addon.deletions().length
    for (const tag of [0, 2]) await expectRefused('ERR_LILY_ARGUMENT', 'type tag', () => fromDLPack(produce({ tag })))
    await collect()
    expect(deletionsSince(before)).toEqual([1, 1])
  })

  it('what is no capsule', async () => {
    for (const value of [undefined, null, 1, 'x', {}, [], tensor(x.data, x.shape), Symbol('x'), new Proxy({}, {})]) {
      const error = await expectRefused('ERR_LILY_ARGUMENT', 'toDLPack()', () => fromDLPack(value))
      expect(error.argument).toBe('capsule')
    }
  })

  it('another major version, whose tensor it gives back', async () => {
    const before = addon.deletions().length
    const capsules = [0, 2].map((major) => produce({ major, ndim: -1 }))
    for (const [i, capsule] of capsules.entries()) {
      await expectRefused('ERR_LILY_ARGUMENT', 'expected DLPack 1.x, got', () => fromDLPack(capsule))
      expect(deletionsSince(before)[i]).toBe(1)
      await expectRefused('ERR_LILY_ARGUMENT', 'taken before', () => fromDLPack(capsule))
    }
    await collect()
    expect(deletionsSince(before)).toEqual([1, 1])
  })

  it('a stream for memory of the host, and unknown options', async () => {
    const capsule = produce()
    await expectRefused('ERR_LILY_ARGUMENT', 'stream: expected none', () => fromDLPack(capsule, { stream: 1n }))
    await expectRefused('ERR_LILY_ARGUMENT', 'strem', () => fromDLPack(capsule, { strem: 1n } as never))
    await expectRefused('ERR_LILY_ARGUMENT', 'stream: expected none', () => toDLPack(x, { stream: 1n }))
    expect(fromDLPack(capsule).shape).toEqual(x.shape)
  })
})

describe('the deleter is called once', () => {
  it('when a capsule that was not consumed is collected', async () => {
    const before = addon.deletions().length
    produce()
    await collect()
    expect(deletionsSince(before)).toEqual([1])
  })

  it('when the tensor and all that uses it are collected', async () => {
    const before = addon.deletions().length
    const capsule = produce()
    let saved: LilySaved | null = forwardOf(capsule)
    await collect()
    expect(deletionsSince(before)).toEqual([0]) // backward needs x
    expectSameBits('dx', dxOf(saved), dxOf(expected.saved))
    saved = null
    for (let i = 0; i < 3; i++) await collect()
    expect(deletionsSince(before)).toEqual([1])
    expect(addon.take(capsule)).toBeUndefined()
  })

  it('or never, where there is none', async () => {
    fromDLPack(produce({ withoutDeleter: true }))
    produce({ withoutDeleter: true })
    await expectRefused('ERR_LILY_ARGUMENT', 'DLPack 1.x', () =>
      fromDLPack(produce({ withoutDeleter: true, major: 3 })),
    )
    await collect()
  })
})

describe('a read-only tensor', () => {
  const readOnly = (data: HostData, shape: readonly number[]) =>
    fromDLPack(addon.produce(made(data, shape, { flags: 1 })))

  it('is an input', () => {
    const { y } = lilyForward({ x: readOnly(x.data, x.shape), ...rest })
    expectSameBits('y', y.data, expected.y.data)
  })

  it('is no output of a call', async () => {
    const y = readOnly(new Float32Array(tokens * dOut), [tokens, dOut])
    const refused = (argument: string, call: () => unknown) =>
      expectRefused('ERR_LILY_ARGUMENT', `${argument}: its memory is read-only`, call)
    await refused('y', () => lilyForward({ x, ...rest, y }))
    await refused('y', () => lilyForwardAsync({ x, ...rest, y }))
    await refused('dx', () => lilyBackward({ dy, dx: readOnly(x.data, x.shape) }, expected.saved))
    await refused('db', () => lilyBackward({ dy, db: readOnly(b.data, b.shape) }, expected.saved))
    expect(new Set(y.data)).toEqual(new Set([0]))
    const layers = [{ name: 'q', inFeatures: dIn, outFeatures: dOut }]
    const model = LoraModel.create({ layers, config: { r: 2, targetModules: ['q'] } })
    const weight = readOnly(new Float32Array(dOut * dIn), [dOut, dIn])
    await refused('weight', () => {
      model.merge('q', weight)
    })
    model.merge('q', tensor(new Float32Array(dOut * dIn), [dOut, dIn])) // it was not merged
  })

  it('is no parameter of an optimiser; as a gradient it is not zeroed', async () => {
    const value = readOnly(Float32Array.of(1), [1])
    const grad = tensor([1], [1])
    await expectRefused('ERR_LILY_ARGUMENT', 'w.value: its memory is read-only', () => {
      new AdamW(new Map([['w', { value, grad }]])).step()
    })
    const optimiser = new AdamW(new Map([['w', { value: grad, grad: value }]]))
    optimiser.step()
    await expectRefused('ERR_LILY_ARGUMENT', 'w.grad: its memory is read-only', () => {
      optimiser.zeroGrad()
    })
    expect([value.data[0], grad.data[0] < 1]).toEqual([1, true])
  })

  it('stays read-only when it is given away', () => {
    const { flags } = take(toDLPack(readOnly(x.data, x.shape)))
    expect(flags).toBe(1)
    expect(take(toDLPack(x)).flags).toBe(0)
  })
})

describe('toDLPack', () => {
  it.each<[DType, HostData]>([
    ['float32', Float32Array.of(1, -2, 3, 4)],
    ['float16', Uint16Array.of(1, 2, 3, 4)],
    ['bfloat16', Uint16Array.of(1, 2, 3, 4)],
    ['int32', Int32Array.of(1, 2, 3, 4)],
    ['uint8', Uint8Array.of(1, 2, 3, 4)],
  ])('describes %s', (dtype, data) => {
    const { address: _, index: __, ...taken } = take(toDLPack(tensor(data, [2, 1, 2], dtype)))
    const [code, bits] = DLPACK_TYPES[dtype]
    expect(taken).toEqual({
      code,
      bits,
      lanes: 1,
      deviceType: 1,
      deviceId: 0,
      flags: 0,
      minor: 1,
      shape: [2, 1, 2],
      strides: [2, 2, 1],
      byteOffset: 0,
    })
  })

  it('gives rows with a pitch, and other forms of tensors', () => {
    const taken = take(toDLPack({ data: wide, shape: [tokens, dIn], strides: [width, 1], byteOffset: 4 * left }))
    expect([taken.shape, taken.strides]).toEqual([
      [tokens, dIn],
      [width, 1],
    ])
    expect(addon.exchange(taken.index, width, x.data[dIn])).toBe(x.data[dIn])
    const onnx = take(toDLPack({ data: x.data, dims: x.shape, type: 'float32' }))
    expect(onnx.shape).toEqual(x.shape)
  })

  it('gives a tensor without elements no data', () => {
    const { address, shape } = take(toDLPack(tensor(new Float32Array(0), [0, 3])))
    expect([address, shape]).toEqual([0n, [0, 3]])
  })

  it('gives the memory itself', () => {
    const data = Float32Array.of(1, 2, 3)
    const { index } = take(toDLPack(tensor(data, [3])))
    expect(addon.exchange(index, 1, 7)).toBe(2)
    expect(Array.from(data)).toEqual([1, 7, 3])
    data[2] = 9
    expect(addon.exchange(index, 2, 0)).toBe(9)
  })

  for (const inThread of [0, 1])
    it(`keeps the memory until the deleter runs ${inThread === 1 ? 'in another thread' : 'in this thread'}`, async () => {
      const [{ index }, buffer] = exportOne()
      await collect()
      expect(buffer.deref()).toBeDefined()
      expect(addon.exchange(index, 5, 0)).toBe(5)
      addon.giveBack(index, inThread)
      await collect()
      await collect()
      expect(buffer.deref()).toBeUndefined()
    })

  it('keeps the memory as long as a capsule that nobody has consumed', async () => {
    const kept: object[] = []
    const buffer = keepCapsule(kept)
    await collect()
    expect(buffer.deref()).toBeDefined()
    kept.length = 0
    for (let i = 0; i < 3; i++) await collect()
    expect(buffer.deref()).toBeUndefined()
  })

  it('refuses what has no memory that stays', async () => {
    const Resizable = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => ArrayBuffer
    const resizable = { data: new Float32Array(new Resizable(8, { maxByteLength: 8 })), shape: [2] }
    await expectRefused('ERR_LILY_ARGUMENT', 'tensor: expected memory that cannot shrink while', () =>
      toDLPack(resizable),
    )
    const detached = new Float32Array(2)
    structuredClone(detached, { transfer: [detached.buffer] })
    await expectRefused('ERR_LILY_ARGUMENT', 'detached', () => toDLPack({ data: detached, shape: [2] }))
    const disposed = tensor([1], [1])
    disposed.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'tensor', () => toDLPack(disposed))
    await expectRefused('ERR_LILY_ARGUMENT', 'tensor', () => toDLPack(undefined as never))
    await expectRefused('ERR_LILY_SHAPE', 'tensor', () => toDLPack({ data: x.data, shape: [] }))
  })
})

describe('a tensor that comes back', () => {
  const aliasOf = (given: Tensor) => fromDLPack(addon.passOn(take(toDLPack(given)).index))

  it('has the same memory', () => {
    const data = Float32Array.of(1, 2, 3)
    const alias = aliasOf(tensor(data, [3]))
    expect(alias.data).not.toBe(data)
    alias.data[0] = 5
    expect(data[0]).toBe(5)
  })

  it('overlaps the memory that it came from', async () => {
    const own = tensor(x.data.slice(), x.shape)
    const square = { a: filled(0.5, 1, dIn), b: filled(0.5, 1, 1, dIn) }
    lilyForward({ x: own, ...square, y: filled(0, tokens, dIn) }, { routing: 'uniform' }) // finds where x is
    const alias = aliasOf(own)
    for (const [input, y] of [
      [own, alias],
      [alias, own],
      [alias, aliasOf(own)],
    ]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'y: its memory overlaps that of x', () =>
        lilyForward({ x: input, ...square, y }, { routing: 'uniform' }),
      )
    }
    lilyForward({ x: own, ...square, y: aliasOf(tensor(x.data.slice(), x.shape)) }, { routing: 'uniform' })
  })

  it('overlaps the memory of a saved call, and of a parameter', async () => {
    const { saved } = lilyForward({ x, ...rest })
    const hidden = aliasOf(saved.hidden)
    await expectRefused('ERR_LILY_ARGUMENT', 'da: its memory is that of', () =>
      lilyBackward({ dy, da: { data: hidden.data.subarray(0, 15), shape: [3, dIn] } }, saved),
    )
    const value = tensor([1, 2], [2])
    const optimiser = new AdamW(new Map([['w', { value, grad: aliasOf(value) }]]))
    await expectRefused('ERR_LILY_ARGUMENT', 'overlaps that of w.', () => {
      optimiser.step()
    })
  })

  it('is given back to this package without the other addon', async () => {
    const [{ shape }, buffer] = backAndForth()
    expect(shape).toEqual([6])
    for (let i = 0; i < 3; i++) await collect()
    expect(buffer.deref()).toBeUndefined()
  })

  it('as one of a thousand', async () => {
    for (let i = 0; i < 1000; i++) {
      const alias = fromDLPack(toDLPack(tensor(new Float32Array(64).fill(i), [64])))
      if (alias.data[63] !== i) throw new Error(`tensor ${i} has other numbers`)
      if (i % 100 === 0) await collect()
    }
  })
})

// Functions of their own, so that no variable of a test keeps the memory.

function forwardOf(capsule: object): LilySaved {
  return lilyForward({ x: fromDLPack(capsule), ...rest }).saved
}

function dxOf(saved: LilySaved): HostData {
  return lilyBackward({ dy }, saved, { retain: true }).dx.data
}

function makeCapsule(): [object, WeakRef<ArrayBufferLike>] {
  const data = Float32Array.of(0, 1, 2, 3, 4, 5)
  return [toDLPack(tensor(data, [6])), new WeakRef(data.buffer)]
}

function keepCapsule(into: object[]): WeakRef<ArrayBufferLike> {
  const [capsule, buffer] = makeCapsule()
  into.push(capsule)
  return buffer
}

function exportOne(): [Taken, WeakRef<ArrayBufferLike>] {
  const [capsule, buffer] = makeCapsule()
  return [take(capsule), buffer]
}

function backAndForth(): [{ shape: number[] }, WeakRef<ArrayBufferLike>] {
  const [capsule, buffer] = makeCapsule()
  return [{ shape: fromDLPack(capsule).shape }, buffer]
}

describe('threads', () => {
  const run = promisify(execFile)
  const program = fileURLToPath(new URL('programs/dlpack.js', import.meta.url))

  it.each(['worker', 'terminated', 'exit'])('%s: the end of an environment', async (way) => {
    const { stdout, stderr } = await run(process.execPath, ['--expose-gc', program, path, way])
    expect([stdout, stderr]).toEqual(['done\n', ''])
  })
})
