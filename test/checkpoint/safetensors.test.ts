/** Safetensors files: round trips, byte-for-byte agreement with the reference writer, rejection of invalid files. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import ndarray from 'ndarray'
import { describe, expect, it, vi } from 'vitest'
import { SafetensorsFile } from '../../lib/checkpoint/safetensors-file.js'
import { replaceWithTensors, type TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { LilyError, packLinear, saveState, tensor, writeSafetensors } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'
import { temporaryFolder } from '../support/temporary.js'

const golden = fileURLToPath(new URL('../fixtures/golden', import.meta.url))
const folder = temporaryFolder()
const file = join(folder, 'file.safetensors')

const BYTES: Readonly<Record<string, number>> = { F32: 4, BF16: 2, F16: 2, I64: 8, BOOL: 1 }
const NAMES: Readonly<Record<string, string>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }

/** Assembles a file from its parts. */
function encode(header: unknown, data: Uint8Array = new Uint8Array(), length?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([prefix, json, data])
}

async function openAndReadAll(): Promise<Map<string, { shape: readonly number[]; dtype: string; bytes: Uint8Array }>> {
  const opened = await SafetensorsFile.open(file)
  try {
    const read = new Map<string, { shape: readonly number[]; dtype: string; bytes: Uint8Array }>()
    for (const [name, { dtype, shape }] of opened.tensors) {
      if (!(dtype in NAMES)) {
        read.set(name, { dtype, shape, bytes: await opened.readBytes(name) })
        continue
      }
      const tensor = await opened.read(name)
      expect(tensor).toMatchObject({ dtype: NAMES[dtype], shape })
      const { data } = tensor
      expect(data).toBeInstanceOf(dtype === 'F32' ? Float32Array : Uint16Array)
      read.set(name, { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) })
    }
    return read
  } finally {
    await opened.close()
  }
}

const source = (dtype: string, shape: readonly number[], bytes: Uint8Array): TensorSource => ({
  dtype,
  shape,
  bytes: () => bytes,
})

const anyName = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.constantFrom('__proto__', 'constructor', '0', '10', 'a"b\\', 'é', ''),
)
const anyTensor = fc
  .record({
    dtype: fc.constantFrom(...Object.keys(BYTES)),
    shape: fc.array(fc.nat({ max: 5 }), { maxLength: 4 }),
    seed: fc.nat({ max: 255 }),
  })
  .map(({ dtype, shape, seed }) => {
    const length = shape.reduce((product, size) => product * size, BYTES[dtype])
    return source(
      dtype,
      shape,
      Uint8Array.from({ length }, (_, i) => (seed + 37 * i) % 256),
    )
  })
const anyTensors = fc
  .array(fc.tuple(anyName, anyTensor), { maxLength: 6 })
  .map((entries) => new Map(entries.filter(([name]) => name !== '__metadata__')))
const anyMetadata = fc.dictionary(anyName, fc.string({ unit: 'binary' }), { maxKeys: 3 })

describe('a round trip', () => {
  it('preserves every tensor and the metadata', async () => {
    await fc.assert(
      fc.asyncProperty(anyTensors, anyMetadata, async (tensors, metadata) => {
        const pairs = new Map(Object.entries(metadata))
        await replaceWithTensors(file, tensors, pairs)
        const read = await openAndReadAll()
        expect(new Set(read.keys())).toEqual(new Set(tensors.keys()))
        for (const [name, { dtype, shape, bytes }] of tensors) {
          expect(read.get(name)).toEqual({ dtype, shape, bytes: await bytes() })
        }
        const opened = await SafetensorsFile.open(file)
        await opened.close()
        expect(new Map(opened.metadata)).toEqual(pairs)
        expect(readFileSync(file).readBigUInt64LE() % 8n).toBe(0n)
      }),
      { numRuns: 200 },
    )
  })

  it.each(['peft_checkpoint/adapter_model.safetensors', 'case_01.safetensors', 'multi_0.safetensors'])(
    "writes PEFT's %s again byte for byte",
    async (name) => {
      const path = join(golden, name)
      const opened = await SafetensorsFile.open(path)
      const tensors = new Map<string, TensorSource>()
      // In reverse: the writer determines the order in the file.
      for (const [tensor, { dtype, shape }] of [...opened.tensors].reverse()) {
        tensors.set(tensor, { dtype, shape, bytes: () => opened.readBytes(tensor) })
      }
      await replaceWithTensors(file, tensors, opened.metadata)
      await opened.close()
      expect(readFileSync(file).equals(readFileSync(path))).toBe(true)
    },
  )

  it('reads the same numbers as another reader', async () => {
    const path = join(golden, 'peft_checkpoint/adapter_model.safetensors')
    const expected = readSafetensors(path)
    const opened = await SafetensorsFile.open(path)
    expect([...opened.tensors.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, { data, shape }] of expected) {
      expect(await opened.read(name)).toEqual({ dtype: 'float32', data, shape })
    }
    await opened.close()
  })

  it('writes names in the order of their bytes', async () => {
    const names = ['a', 'ab', 'b', 'é', '€', '\uffff', '😀']
    const tensors = new Map([...names].reverse().map((name) => [name, source('BOOL', [1], new Uint8Array(1))] as const))
    await replaceWithTensors(file, tensors, new Map())
    const opened = await SafetensorsFile.open(file)
    await opened.close()
    // UTF-16 would have the surrogates of the last one before \uffff.
    expect([...opened.tensors.keys()]).toEqual(names)
  })

  it('reads tensors whose entries have another order than their bytes', async () => {
    const entry = (begin: number, end: number) => ({ dtype: 'U8', shape: [end - begin], data_offsets: [begin, end] })
    const bytes = Uint8Array.from({ length: 6 }, (_, i) => i)
    writeFileSync(file, encode({ c: entry(3, 6), empty: entry(1, 1), a: entry(0, 1), b: entry(1, 3) }, bytes))
    const opened = await SafetensorsFile.open(file)
    expect([...opened.tensors.keys()]).toEqual(['a', 'empty', 'b', 'c'])
    expect(await opened.readBytes('b')).toEqual(bytes.subarray(1, 3))
    expect(await opened.readBytes('c')).toEqual(bytes.subarray(3))
    await opened.close()
  })

  it('compares every byte, wherever the expected ones are in memory', async () => {
    const bytes = Uint8Array.from({ length: 23 }, (_, i) => i)
    const tensors = { x: source('F32', [4], bytes.subarray(0, 16)), y: source('BOOL', [23], bytes) }
    await replaceWithTensors(file, new Map(Object.entries(tensors)), new Map())
    const opened = await SafetensorsFile.open(file)
    for (const [name, { bytes: content }] of Object.entries(tensors)) {
      const expected = content() as Uint8Array
      for (let offset = 0; offset < 5; offset++) {
        const same = new Uint8Array(40).fill(0xff).subarray(offset, offset + expected.length)
        same.set(expected)
        expect(await opened.hasBytes(name, same)).toBe(true)
        for (let i = 0; i < same.length; i++) {
          same[i] ^= 0x80
          expect(await opened.hasBytes(name, same), `byte ${i} at offset ${offset}`).toBe(false)
          same[i] ^= 0x80
        }
      }
    }
    await opened.close()
  })

  it('compares bytes without reading the whole tensor', async () => {
    const bytes = Uint8Array.from({ length: 40 }, (_, i) => i)
    await replaceWithTensors(file, new Map([['x', source('F32', [10], bytes)]]), new Map())
    const opened = await SafetensorsFile.open(file)
    expect(await opened.hasBytes('x', bytes)).toBe(true)
    expect(await opened.hasBytes('x', bytes.with(39, 0))).toBe(false)
    expect(await opened.hasBytes('x', bytes.subarray(1))).toBe(false)
    await opened.close()
  })

  it('compares the bytes of each block of 16 MiB with those at their place', async () => {
    const bytes = new Uint8Array(2 ** 24 + 8).fill(1, 2 ** 24)
    await replaceWithTensors(file, new Map([['x', source('U8', [bytes.length], bytes)]]), new Map())
    const opened = await SafetensorsFile.open(file)
    expect(await opened.hasBytes('x', bytes)).toBe(true)
    bytes.fill(0)
    expect(await opened.hasBytes('x', bytes)).toBe(false)
    await opened.close()
  })

  it('reports expected bytes that are transferred while the tensor is read', async () => {
    const bytes = Uint8Array.from({ length: 40 }, (_, i) => i)
    await replaceWithTensors(file, new Map([['x', source('F32', [10], bytes)]]), new Map())
    const opened = await SafetensorsFile.open(file)
    const pending = opened.hasBytes('x', bytes)
    const refused = expectRefused('ERR_LILY_ARGUMENT', 'expected: its ArrayBuffer was transferred', () => pending)
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
    await refused
    await opened.close()
  })
})

describe('rejects a file', () => {
  const tensor = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
  const data = new Uint8Array(8)
  const hostile: Record<string, [content: Uint8Array, message: string]> = {
    'empty file': [new Uint8Array(), 'got 0 bytes'],
    'no header': [Buffer.alloc(7), 'got 7 bytes'],
    'huge header length': [encode({}, data, 2n ** 63n), 'at most 33554432 bytes, got a length of 9223372036854775808'],
    'header behind the end': [encode({}, data, 33_554_432n), 'a header of 33554432 bytes, got a file of 18 bytes'],
    'header that is no JSON': [encode('{"x":'), 'expected the header to be valid JSON'],
    'header of NULs': [encode('\0'.repeat(64)), 'expected the header to be valid JSON'],
    'header that is no object': [encode('[]'), 'expected a JSON object as header'],
    'header that is no UTF-8': [encode('{"\xff":1}').fill(0xff, 10, 12), 'expected the header to be UTF-8'],
    'byte order mark': [encode('\ufeff{}'), 'expected the header to be valid JSON'],
    'header nested deeply': [encode('['.repeat(1_000_000)), 'at most 127 levels of nesting'],
    'NUL behind the header': [
      encode('{}\0'),
      'expected the header to be valid JSON (Unexpected non-whitespace character after JSON at position 2',
    ],
    'comma before the end': [
      encode('{"__metadata__":{},}'),
      'expected the header to be valid JSON (Expected double-quoted property name in JSON at position 19',
    ],
    'line feed in a name': [encode('{"a\nb":1}'), 'expected the header to be valid JSON'],
    'escape that is none': [encode('{"\\x":1}'), 'expected the header to be valid JSON (Bad escaped character'],
    ...Object.fromEntries(
      ['\\ud800', '\\udc00\\udc00', '\\ud800\\ue000'].flatMap((half) => {
        const message = 'expected well-formed Unicode, got a lone surrogate in "'
        return [
          [`lone surrogate in a name: ${half}`, [encode(`{"${half}":1}`), message]],
          [`lone surrogate in a key: ${half}`, [encode(`{"__metadata__":{"${half}":""}}`), message]],
          [`lone surrogate in the metadata: ${half}`, [encode(`{"__metadata__":{"a":"${half}"}}`), message]],
        ]
      }),
    ),
    ...Object.fromEntries(
      ['01', '-', '1.', '1e', '1e+', 'tree', 'nul', 'False'].map((value) => [
        `value that is ignored and no JSON: ${value}`,
        [
          encode(`{"x":{"extra":${value},${JSON.stringify(tensor).slice(1)}}`, data),
          'expected the header to be valid JSON',
        ],
      ]),
    ),
    'entry that is an array': [encode('{"x":["F32",[2],[0,8]]}', data), 'expected an object with dtype'],
    'type as an object': [
      encode('{"x":{"dtype":{"toString":1},"shape":[2],"data_offsets":[0,8]}}', data),
      'expected one of the data types',
    ],
    'size of 02': [
      encode('{"x":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}', data),
      'expected the header to be valid JSON',
    ],
    'long name': [encode({ [`\0${'x'.repeat(10_000)}`]: tensor }, data), 'names of at most 10000 characters'],
    'entry that is a number': [encode({ x: 3 }), 'tensor "x": expected an object'],
    'unknown type': [encode({ x: { ...tensor, dtype: 'F31' } }, data), 'tensor "x": expected one of the data types'],
    'no shape': [encode({ x: { ...tensor, shape: undefined } }, data), 'tensor "x": expected a shape'],
    'negative size': [encode({ x: { ...tensor, shape: [-2] } }, data), 'tensor "x": expected a shape'],
    'size of a half': [encode({ x: { ...tensor, shape: [0.5] } }, data), 'tensor "x": expected a shape'],
    'size too large': [encode({ x: { ...tensor, shape: [2 ** 53] } }, data), 'tensor "x": expected a shape'],
    'sizes whose product is infinite': [
      encode({ x: { ...tensor, shape: [...Array<number>(40).fill(2 ** 40), 0] } }, data),
      'tensor "x": expected 0 bytes',
    ],
    'more than 64 sizes': [
      encode({ x: { ...tensor, shape: Array<number>(65).fill(0), data_offsets: [0, 0] } }),
      'tensor "x": expected a shape of at most 64 integers from 0 to 2^53 - 1, got [0, 0, 0, 0, 0, 0, 0, 0, ...]',
    ],
    'wrong shape': [
      encode({ x: { ...tensor, shape: [3] } }, data),
      'tensor "x": expected 12 bytes (F32 [3]), got data_offsets of 8 bytes',
    ],
    'offsets of a half': [encode({ x: { ...tensor, data_offsets: [0.5, 8.5] } }, data), 'two integers'],
    'offsets in the wrong order': [encode({ x: { ...tensor, data_offsets: [8, 0] } }, data), 'two integers'],
    'three offsets': [encode({ x: { ...tensor, data_offsets: [0, 8, 8] } }, data), 'two integers'],
    'offsets as text': [encode({ x: { ...tensor, data_offsets: ['0', '8'] } }, data), 'two integers'],
    'truncated data': [encode({ x: tensor }, data.subarray(1)), 'expected 70 bytes, according to its header, got 69'],
    'bytes behind the last tensor': [encode({ x: tensor }, new Uint8Array(9)), 'got 71'],
    'gap before the first': [
      encode({ x: { ...tensor, data_offsets: [4, 12] } }, new Uint8Array(12)),
      'tensor "x": expected its data at byte 63, where the header ends, got byte 67, which leaves a gap',
    ],
    overlap: [
      encode({ x: tensor, y: { ...tensor, data_offsets: [4, 12] } }, new Uint8Array(12)),
      'tensor "y": expected its data at byte 124, where tensor "x" ends, got byte 120, which overlaps',
    ],
    'one place for two': [encode({ x: tensor, y: tensor }, data), 'overlaps'],
    'metadata that is no text': [
      encode({ __metadata__: { format: 1 } }),
      'expected __metadata__ to be an object of strings',
    ],
  }

  it.each(Object.entries(hostile))('%s', async (_, [content, message]) => {
    writeFileSync(file, content)
    const error = await expectRefused('ERR_LILY_CHECKPOINT', message, openAndReadAll)
    expect(error.message.startsWith(`${file}: `)).toBe(true)
  })

  it('is refused in a few hundred characters', async () => {
    const long = 'é\0"'.repeat(3000)
    const headers = [
      { [long]: 1 },
      { x: { ...tensor, dtype: long } },
      { x: { ...tensor, shape: new Array(100_000).fill(3) } },
      { x: { ...tensor, shape: new Array(100).fill(0) } },
      { [long]: tensor, [`${long}1`]: tensor },
      { __metadata__: { [long]: 1 } },
      { __metadata__: { [long.repeat(9)]: '' } },
      `{"${'x'.repeat(5000)}":${JSON.stringify(tensor)},"${'x'.repeat(5000)}":1}`,
    ]
    for (const header of headers) {
      writeFileSync(file, encode(header, data))
      const { message } = await expectRefused('ERR_LILY_CHECKPOINT', '', openAndReadAll)
      expect(message.length, message).toBeLessThan(file.length + 650)
    }
  })

  it('not as damaged where there is no TextDecoder, as in jsdom', async () => {
    writeFileSync(file, encode({ x: tensor }, data))
    const { TextDecoder } = globalThis
    vi.stubGlobal('TextDecoder', undefined)
    await expect(SafetensorsFile.open(file)).rejects.toThrow(/^TextDecoder is not/)
    vi.stubGlobal('TextDecoder', TextDecoder)
  })

  it('of a type without numbers here, once it is read', async () => {
    writeFileSync(file, encode({ x: { dtype: 'I64', shape: [1], data_offsets: [0, 8] } }, data))
    const opened = await SafetensorsFile.open(file)
    await expectRefused('ERR_LILY_CHECKPOINT', 'tensor "x": expected data type F32, BF16 or F16, got I64', () =>
      opened.read('x'),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', 'has no tensor "toString"', () => opened.read('toString'))
    await opened.close()
  })

  it('truncated while it is open', async () => {
    writeFileSync(file, encode({ x: tensor }, data))
    const opened = await SafetensorsFile.open(file)
    writeFileSync(file, '')
    await expectRefused('ERR_LILY_CHECKPOINT', 'ended at byte', () => opened.read('x'))
    await opened.close()
  })

  it('that is closed', async () => {
    writeFileSync(file, encode({ x: tensor }, data))
    const opened = await SafetensorsFile.open(file)
    await opened.close()
    await opened.close()
    const says = `${file}: cannot be read (file closed); read its tensors before close(), or open it again`
    for (const read of [() => opened.read('x'), () => opened.readBytes('x')]) {
      await expectRefused('ERR_LILY_CHECKPOINT', says, read)
    }
  })

  it('missing, or a folder', async () => {
    await expectRefused('ERR_LILY_CHECKPOINT', 'ENOENT', () => SafetensorsFile.open(join(folder, 'none')))
    await expectRefused('ERR_LILY_CHECKPOINT', 'expected a file', () => SafetensorsFile.open(folder))
  })
})

describe('a file that is taken, as the reference implementation takes it', () => {
  const taken: Record<string, [header: string, tensors: Record<string, number[]>, metadata?: Record<string, string>]> =
    {
      'no tensors': ['{}', {}],
      'white space around': [' \n{} \t\r\n', {}],
      'metadata that is null': ['{"__metadata__":null}', {}],
      'metadata in escapes': [
        '{"\\u005f_metadata__":{"a\\/\\"":"\\ud83d\\ude00\\u20ac\\u00e9\\n\\u0000","__proto__":"é€😀"}}',
        {},
        { 'a/"': '😀€é\n\0', ['__proto__']: 'é€😀' },
      ],
      'fields that are not known': [
        `{"x":{"dtype":"F32","shape":[2],"extra":[{"a":-0,"a":1.5e-999},true,"\\u00e9",null,${'['.repeat(124)}${']'.repeat(124)}],"data_offsets":[0,8]}}`,
        { x: [2] },
      ],
      'large sizes behind a zero': [
        `{"x":{"dtype":"F32","shape":[0,${2 ** 40},${2 ** 40}],"data_offsets":[0,0]},"y":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`,
        { x: [0, 2 ** 40, 2 ** 40], y: [2] },
      ],
      'large sizes before a zero': [
        `{"x":{"dtype":"F32","shape":[${2 ** 40},${2 ** 40},0],"data_offsets":[0,0]}}`,
        { x: [2 ** 40, 2 ** 40, 0] },
      ],
      'integers in other spellings': [
        '{"x":{"dtype":"F32","shape":[2.0,1e0],"data_offsets":[-0,0.8e1],"extra":[0,8]}}',
        { x: [2, 1] },
      ],
      'names that are integers': [
        '{"9":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"10":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"__metadata__":{"b":"c","1":"2"}}',
        { 9: [2], 10: [0] },
        { b: 'c', 1: '2' },
      ],
      'a tensor twice, of which the last counts': [
        '{"x":{"dtype":"F31"},"\\u0078":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        { x: [2] },
      ],
      'fields twice, of which the last count': [
        '{"x":{"shape":[3],"data_offsets":[0,7],"dtype":"F32","s\\u0068ape":[2],"data_offsets":[0,8]}}',
        { x: [2] },
      ],
      'metadata twice, and a key of it': [
        '{"__metadata__":{"a":"1"},"__metadata__":{"b":"2","b":"3"}}',
        {},
        { b: '3' },
      ],
    }
  it.each(Object.entries(taken))('%s', async (_, [header, tensors, metadata]) => {
    const bytes = header.includes('[0,8]') ? new Uint8Array(8) : undefined
    writeFileSync(file, encode(header, bytes))
    const opened = await SafetensorsFile.open(file)
    await opened.close()
    const shapes = Array.from(opened.tensors, ([name, { shape }]) => [name, shape])
    expect(new Map(shapes as [string, number[]][])).toEqual(new Map(Object.entries(tensors)))
    expect(new Map(opened.metadata)).toEqual(new Map(Object.entries(metadata ?? {})))
  })
})

describe('mutated files', () => {
  const valid = encode(
    {
      __metadata__: { format: 'pt' },
      a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
      b: { dtype: 'BF16', shape: [3], data_offsets: [24, 30] },
      c: { dtype: 'I64', shape: [], data_offsets: [30, 38] },
    },
    Uint8Array.from({ length: 38 }, (_, i) => i * 6),
  )
  const splice = fc
    .tuple(
      fc.nat({ max: valid.length }),
      fc.nat({ max: 12 }),
      fc.oneof(
        fc.uint8Array({ maxLength: 4 }),
        fc.constantFrom(
          ...['9', '0', '-1', '1e3', '"', ',', '}', '{', '[]', 'null', '\\'].map((text) => Buffer.from(text)),
        ),
      ),
    )
    .map(
      ([at, removed, added]) =>
        (bytes: Buffer) =>
          Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(Math.min(at + removed, bytes.length))]),
    )

  it('are rejected, or hold the tensors that their headers describe', async () => {
    let taken = 0
    await fc.assert(
      fc.asyncProperty(fc.array(splice, { minLength: 1, maxLength: 3 }), fc.boolean(), async (splices, honest) => {
        let bytes = splices.reduce((mutated, mutate) => mutate(mutated), valid)
        // Otherwise nearly all mutations would fail at the length of the header.
        if (honest && bytes.length >= 8) {
          bytes = Buffer.from(bytes)
          bytes.writeBigUInt64LE(BigInt(Math.max(bytes.length - 8 - 38, 0)))
        }
        writeFileSync(file, bytes)
        let read
        try {
          read = await openAndReadAll()
        } catch (error) {
          expect(error).toBeInstanceOf(LilyError)
          expect((error as LilyError).code).toBe('ERR_LILY_CHECKPOINT')
          return
        }
        taken++
        const start = 8 + Number(bytes.readBigUInt64LE())
        const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, typeof valid>
        const said = Object.entries(header).filter(([name]) => name !== '__metadata__')
        expect(read.size).toBe(said.length)
        for (const [name, entry] of said) {
          const {
            data_offsets: [begin, end],
          } = entry as unknown as { data_offsets: [number, number] }
          expect(Buffer.from(read.get(name)!.bytes)).toEqual(Buffer.from(bytes.subarray(start + begin, start + end)))
        }
      }),
      { numRuns: 1000 },
    )
    // Files in which only numbers or a name changed.
    expect(taken).toBeGreaterThan(1)
  })
})

describe('a write that fails', () => {
  const old = new Map([['x', source('F32', [1], new Uint8Array(4))]])

  it('keeps the old file and leaves no temporary file', async () => {
    const place = join(folder, 'failing')
    const path = join(place, 'x.safetensors')
    await replaceWithTensors(path, old, new Map())
    const before = readFileSync(path)
    const failing = new Map<string, TensorSource>([
      ['a', source('F32', [1], new Uint8Array(4))],
      ['b', { dtype: 'F32', shape: [1], bytes: () => Promise.reject(new Error('device is gone')) }],
    ])
    await expect(replaceWithTensors(path, failing, new Map())).rejects.toThrow('device is gone')
    await expectRefused('ERR_LILY_CHECKPOINT', 'tensor "a": expected 8 bytes to write, got 4', () =>
      replaceWithTensors(path, new Map([['a', source('F32', [2], new Uint8Array(4))]]), new Map()),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', 'surrogate', () =>
      replaceWithTensors(path, new Map([['\ud800', source('F32', [1], new Uint8Array(4))]]), new Map()),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', '__metadata__', () =>
      replaceWithTensors(path, new Map([['__metadata__', source('F32', [1], new Uint8Array(4))]]), new Map()),
    )
    // A reader refuses such a name as damaged. The longest one that it accepts is written.
    const longest = '\n'.repeat(10_000)
    const tooLong = 'names of at most 10000 characters, got '
    await expectRefused('ERR_LILY_CHECKPOINT', tooLong, () =>
      replaceWithTensors(path, new Map([[`${longest}n`, source('F32', [1], new Uint8Array(4))]]), new Map()),
    )
    const error = await expectRefused('ERR_LILY_CHECKPOINT', tooLong, () =>
      replaceWithTensors(path, old, new Map([[`${longest}n`, '']])),
    )
    expect(error.message).toMatch(/\(10001 characters\); rename it$/)
    await replaceWithTensors(
      join(folder, 'longest.safetensors'),
      new Map([[longest, source('F32', [1], new Uint8Array(4))]]),
      new Map(),
    )
    expect(readdirSync(place)).toEqual(['x.safetensors'])
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it('keeps the old file if what was written reads back differently', async () => {
    const place = join(folder, 'damaged')
    const path = join(place, 'x.safetensors')
    await replaceWithTensors(path, old, new Map())
    const before = readFileSync(path)
    const handle = await open(path)
    const prototype = Object.getPrototypeOf(handle) as { write: (bytes: Uint8Array, ...rest: unknown[]) => unknown }
    await handle.close()
    const { write } = prototype
    // The first block is the header, in which the tensor gets another name.
    const damaged = vi.spyOn(prototype, 'write').mockImplementationOnce(function (this: unknown, bytes, ...rest) {
      return write.call(this, bytes.with(bytes.indexOf('x'.charCodeAt(0)), 'y'.charCodeAt(0)), ...rest)
    })
    await expectRefused('ERR_LILY_CHECKPOINT', 'reads back differently; the old file was kept', () =>
      replaceWithTensors(path, old, new Map()),
    )
    damaged.mockRestore()
    expect(readFileSync(path).equals(before)).toBe(true)
    expect(readdirSync(place)).toEqual(['x.safetensors'])
  })

  it('reports the error of the file system', async () => {
    writeFileSync(join(folder, 'plain'), '')
    await expectRefused('ERR_LILY_CHECKPOINT', 'expected a folder or nothing, got a file', () =>
      replaceWithTensors(join(folder, 'plain', 'x.safetensors'), old, new Map()),
    )
    mkdirSync(join(folder, 'taken', 'x.safetensors'), { recursive: true })
    await expectRefused('ERR_LILY_CHECKPOINT', 'x.safetensors', () =>
      replaceWithTensors(join(folder, 'taken', 'x.safetensors'), old, new Map()),
    )
    expect(readdirSync(join(folder, 'taken'))).toEqual(['x.safetensors'])
  })
})

describe('writeSafetensors', () => {
  const x = { data: Float32Array.of(1, 2), shape: [2], dtype: 'float32' as const }
  const place = join(folder, 'checked')
  const path = join(place, 'x.safetensors')

  it('takes plain objects as it takes Maps', async () => {
    await writeSafetensors(path, new Map([['x', x]]), new Map([['step', '3']]))
    const before = readFileSync(path)
    await writeSafetensors(path, { x }, { step: '3' })
    expect(readFileSync(path).equals(before)).toBe(true)
    const opened = await SafetensorsFile.open(path)
    await opened.close()
    expect(opened.metadata).toEqual(new Map([['step', '3']]))
  })

  it('refuses the path of a folder, of which there would be a file', async () => {
    const missing = join(folder, 'no-such-folder')
    const state = { step: 1, parameters: { p: { expAvg: x, expAvgSq: x } } }
    for (const save of [() => writeSafetensors(`${missing}/`, { x }), () => saveState(`${missing}/`, state)]) {
      await expectRefused('ERR_LILY_CHECKPOINT', `no-such-folder${sep}: expected the path of a file`, save)
    }
    expect(existsSync(missing)).toBe(false)
  })

  it('honours the layout of a tensor, or refuses it', async () => {
    const window = { data: Float32Array.of(0, 1, 2, 0, 0, 3, 4, 0), shape: [2, 2], strides: [4, 1], byteOffset: 4 }
    const view = ndarray(window.data, [2, 4]).lo(0, 1).hi(2, 2)
    await writeSafetensors(path, { window, view })
    const opened = await SafetensorsFile.open(path)
    for (const name of ['window', 'view']) expect((await opened.read(name)).data).toEqual(Float32Array.of(1, 2, 3, 4))
    await opened.close()
    const before = readFileSync(path)
    for (const [tensor, code] of [
      [ndarray(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]).transpose(1, 0), 'ERR_LILY_SHAPE'],
      [{ ...x, order: 'F' }, 'ERR_LILY_ARGUMENT'],
    ] as const) {
      await expectRefused(code, 'x: ', () => writeSafetensors(path, { x: tensor } as never, {}))
    }
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it('writes a scalar, of shape [], as it is read', async () => {
    const scalar = { data: Float32Array.of(7), shape: [], dtype: 'float32' as const }
    await writeSafetensors(path, {
      scalar,
      x,
      part: { data: Float32Array.of(1, 2), shape: [], byteOffset: 4 },
    })
    const opened = await SafetensorsFile.open(path)
    const read = await opened.read('scalar')
    expect(read).toEqual(scalar)
    expect((await opened.read('part')).data).toEqual(Float32Array.of(2))
    await opened.close()
    const before = readFileSync(path)
    await expectRefused('ERR_LILY_SHAPE', 'scalar: ', () =>
      writeSafetensors(path, { scalar: { ...scalar, data: new Float32Array(2) } }),
    )
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it('names a tensor that is disposed of, before or while it is written', async () => {
    await writeSafetensors(path, { x })
    const before = readFileSync(path)
    for (const isLate of [false, true]) {
      const gone = tensor([1, 2], [2])
      if (!isLate) gone.dispose()
      const pending = writeSafetensors(path, { gone })
      if (isLate) gone.dispose()
      const error = await expectRefused('ERR_LILY_DISPOSED', 'gone: this tensor is disposed of', () => pending)
      expect(error.argument).toBe('gone')
    }
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it.each([
    ['before its tensor is written', 2, 0],
    ['while its tensor is written', 12 << 20, 2], // one write of the header, and three of the tensor
  ])('reports a buffer that is transferred %s', async (_, length, writes) => {
    await writeSafetensors(path, { x })
    const before = readFileSync(path)
    const handle = await open(path)
    const write = vi.spyOn(Object.getPrototypeOf(handle) as FileHandle, 'write')
    await handle.close()
    const data = new Float32Array(length)
    const pending = writeSafetensors(path, { other: { ...x, data, shape: [length] } })
    const refused = expectRefused('ERR_LILY_ARGUMENT', 'other: its ArrayBuffer is detached', () => pending)
    while (write.mock.calls.length < writes) await setImmediate()
    structuredClone(data.buffer, { transfer: [data.buffer] })
    expect((await refused).argument).toBe('other')
    write.mockRestore()
    expect(readFileSync(path).equals(before)).toBe(true)
    expect(readdirSync(place)).toEqual(['x.safetensors'])
  })

  it.each<[string, unknown, unknown, string]>([
    ['a number in the metadata', { x }, new Map([['step', 3]]), 'expected a string for "step"'],
    ['null in the metadata', { x }, { step: null }, 'expected a string for "step"'],
    ['an object in the metadata', { x }, { config: {} }, 'expected a string for "config"'],
    ['nothing in the metadata', { x }, { step: undefined }, 'expected a string for "step"'],
    ['a number as a key of the metadata', { x }, new Map([[1, 'one']]), 'expected names that are strings, got 1'],
    ['metadata that is a list', { x }, [['step', '3']], 'metadata: expected a Map or a plain object'],
    ['metadata that is text', { x }, 'step', 'metadata: expected a Map or a plain object'],
    ['a number as a name', new Map([[3, x]]), {}, 'expected names that are strings, got 3'],
    ['a symbol as a name', new Map([[Symbol('x'), x]]), {}, 'expected names that are strings'],
    ['a Set of tensors', new Set([x]), {}, 'tensors: expected a Map or a plain object'],
    ['a list of tensors', [x], {}, 'tensors: expected a Map or a plain object'],
    ['no tensors', undefined, {}, 'tensors: expected a Map or a plain object'],
    ['a packed weight', { x: packLinear(tensor([1], [1, 1])) }, {}, 'got a PackedLinear; pass the weight itself'],
    ['a tensor that is none', { x: 'x' }, {}, 'x: expected a tensor, such as { data, shape }'],
  ])('refuses %s, and has written nothing', async (_, tensors, metadata, message) => {
    await writeSafetensors(path, { x }, {})
    const before = readFileSync(path)
    await expectRefused('ERR_LILY_ARGUMENT', message, () =>
      writeSafetensors(path, tensors as Record<string, typeof x>, metadata as Record<string, string>),
    )
    expect(readFileSync(path).equals(before)).toBe(true)
    expect(readdirSync(place)).toEqual(['x.safetensors'])
  })
})
