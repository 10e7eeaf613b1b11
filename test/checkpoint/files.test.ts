/** Adapters without a file system: read from File objects, Blobs and bytes, and saved as File objects. */
import { copyFileSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import {
  type FileData,
  LilyError,
  LilyModel,
  LoraModel,
  type PretrainedFiles,
  SafetensorsFile,
  tensor,
} from '../../lib/index.js'
import { CONFIG, GOLDEN, goldenCopy, newFolder, TENSORS, withFields } from '../support/checkpoint.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const COMPACT = 'adapter_model.compact.safetensors'
const FROZEN = 'adapter_frozen.json'
const LORA = fileURLToPath(new URL('../fixtures/lora/patterns', import.meta.url))

/** The bytes of the files of a folder, each in a buffer of its own. */
const bytesIn = (folder: string) =>
  new Map(
    readdirSync(folder)
      .sort()
      .map((name) => [name, Uint8Array.from(readFileSync(join(folder, name)))]),
  )

/** A file that a browser has picked with its folder. */
const picked = (path: string, bytes: Uint8Array<ArrayBuffer>) =>
  Object.defineProperty(new File([bytes], path.split('/').at(-1)!), 'webkitRelativePath', { value: path })

const filesOf = (folder: string) => Array.from(bytesIn(folder), ([name, bytes]) => new File([bytes], name))

/** What has no array's methods but iterates, as the FileList of a browser does. */
function listOf(files: readonly File[]): Iterable<File> {
  return { length: files.length, item: (i: number) => files[i], [Symbol.iterator]: () => files.values() } as never
}

/** Everything of a model that a save writes, to the bit. */
async function contentsOf(model: LilyModel | LoraModel): Promise<Record<string, string>> {
  const folder = newFolder()
  await model.savePretrained(folder)
  const layers = [...model.layers.keys()].join()
  return { layers, ...Object.fromEntries(Array.from(bytesIn(folder), ([name, bytes]) => [name, latin1(bytes)])) }
}

const latin1 = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')

/** A folder with every file that an adapter may have. */
async function frozenFolder(format: 'peft' | 'compact'): Promise<string> {
  const model = await LilyModel.fromPretrained(GOLDEN)
  model.freeze({ 'layers.0.self_attn.q_proj': [0.1, 0.7, -0.3] })
  const folder = newFolder()
  await model.savePretrained(folder, { format })
  writeFileSync(join(folder, 'README.md'), 'no part of the adapter')
  return folder
}

describe('an adapter in files is read as from its folder', () => {
  const forms: Record<string, (folder: string) => PretrainedFiles> = {
    'File objects': filesOf,
    'a list that iterates': (folder) => listOf(filesOf(folder)),
    'a generator of files': function* (folder) {
      yield* filesOf(folder)
    },
    'a folder of an input element, with the checkpoints of its subfolders': (folder) => [
      picked('adapter/a/b/c', new Uint8Array(3)),
      ...Array.from(bytesIn(folder), ([name, bytes]) => picked(`adapter/${name}`, bytes)),
      ...Array.from(bytesIn(withFields({ r: 4 })), ([name, bytes]) => picked(`adapter/checkpoint-10/${name}`, bytes)),
    ],
    'files of one subfolder': (folder) =>
      Array.from(bytesIn(folder), ([name, bytes]) => picked(`models/adapter/${name}`, bytes)),
    'an object of Blobs': (folder) =>
      Object.fromEntries(Array.from(bytesIn(folder), ([name, bytes]) => [name, new Blob([bytes])])),
    'an object of File objects with other names': (folder) =>
      Object.fromEntries(Array.from(bytesIn(folder), ([name, bytes]) => [name, new File([bytes], 'download (1)')])),
    'a Map of ArrayBuffers': (folder) => new Map(Array.from(bytesIn(folder), ([name, { buffer }]) => [name, buffer])),
    'an object of parts of larger buffers': (folder) =>
      Object.fromEntries(
        Array.from(bytesIn(folder), ([name, bytes]) => {
          const larger = new Uint8Array(bytes.length + 10).fill(0xff)
          larger.set(bytes, 3)
          return [name, larger.subarray(3, 3 + bytes.length)]
        }),
      ),
    'an object of shared memory': (folder) =>
      Object.fromEntries(
        Array.from(bytesIn(folder), ([name, bytes]) => {
          const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
          shared.set(bytes)
          return [name, shared]
        }),
      ),
  }
  it.each(Object.entries(forms))('%s', async (_, form) => {
    for (const folder of [GOLDEN, await frozenFolder('peft'), await frozenFolder('compact')]) {
      const expected = await contentsOf(await LilyModel.fromPretrained(folder))
      expect(await contentsOf(await LilyModel.fromPretrained(form(folder)))).toEqual(expected)
    }
    const expected = await contentsOf(await LoraModel.fromPretrained(LORA))
    expect(await contentsOf(await LoraModel.fromPretrained(form(LORA)))).toEqual(expected)
  })

  it('with the option of a folder', async () => {
    const names = [...(await LilyModel.fromPretrained(GOLDEN)).layers.keys()].reverse()
    const load = (from: string | PretrainedFiles) => LilyModel.fromPretrained(from, { layers: names })
    const fromFolder = await expectRefused('ERR_LILY_CHECKPOINT', 'expected an equal copy', () =>
      load(withFields({ stride_A: 3 })),
    )
    const fromFiles = await expectRefused('ERR_LILY_CHECKPOINT', 'expected an equal copy', () =>
      load(filesOf(withFields({ stride_A: 3 }))),
    )
    expect(fromFiles.message).toBe(fromFolder.message.slice(fromFolder.message.indexOf(TENSORS)))
    expect([...(await load(filesOf(GOLDEN))).layers.keys()]).toEqual(names)
  })

  it('tensor by tensor, not as a whole', async () => {
    const files = bytesIn(GOLDEN)
    const blob = new Blob([files.get(TENSORS)!])
    const parts: number[] = []
    blob.slice = (start, end) => {
      parts.push(end! - start!)
      return Blob.prototype.slice.call(blob, start, end)
    }
    blob.arrayBuffer = () => Promise.reject(new Error('the whole file was read'))
    await LilyModel.fromPretrained({ [CONFIG]: files.get(CONFIG)!, [TENSORS]: blob })
    const tensors = [...readSafetensors(join(GOLDEN, TENSORS)).values()].map(({ data }) => data.byteLength)
    const header = blob.size - tensors.reduce((sum, bytes) => sum + bytes, 0)
    expect(parts.length).toBeGreaterThan(tensors.length)
    expect(Math.max(...parts)).toBeLessThanOrEqual(Math.max(header, ...tensors))
  })
})

describe('what a folder is refused for, files are refused for, in the same words', () => {
  const damages: Record<string, (folder: string) => void> = {
    'a truncated configuration': (folder) => truncateSync(join(folder, CONFIG), 20),
    'a configuration that is too large': (folder) => truncateSync(join(folder, CONFIG), 2 ** 24 + 1),
    'a configuration that is no UTF-8': (folder) =>
      writeFileSync(join(folder, CONFIG), Uint8Array.of(0x7b, 0xff, 0x7d)),
    'another rank': (folder) => {
      const text = readFileSync(join(folder, CONFIG), 'utf8')
      writeFileSync(join(folder, CONFIG), text.replace('"r": 8', '"r": 4'))
    },
    'truncated tensors': (folder) => truncateSync(join(folder, TENSORS), 1000),
    'tensors without their last byte': (folder) => {
      truncateSync(join(folder, TENSORS), readFileSync(join(folder, TENSORS)).length - 1)
    },
    'tensors without any byte': (folder) => truncateSync(join(folder, TENSORS), 0),
    'frozen weights that are none': (folder) => writeFileSync(join(folder, FROZEN), '{}'),
    'both formats': (folder) => writeFileSync(join(folder, COMPACT), ''),
  }
  it.each(Object.entries(damages))('%s', async (_, damage) => {
    const folder = goldenCopy()
    damage(folder)
    const fromFolder = await expectRefused('ERR_LILY_CHECKPOINT', '', () => LilyModel.fromPretrained(folder))
    const fromFiles = await expectRefused('ERR_LILY_CHECKPOINT', '', () => LilyModel.fromPretrained(filesOf(folder)))
    const words = (message: string) =>
      message.replace(`${folder}${sep}`, '').replace(`${folder}:`, "the adapter's files:")
    expect(fromFiles.message).toBe(words(fromFolder.message))
  })

  it.each([CONFIG, TENSORS])('random bytes of %s', async (name) => {
    const folder = goldenCopy()
    const whole = readFileSync(join(folder, name))
    const outcome = async (from: string | PretrainedFiles) => {
      try {
        return await contentsOf(await LilyModel.fromPretrained(from))
      } catch (error) {
        expect(error).toBeInstanceOf(LilyError)
        const { code, message } = error as LilyError
        return `${code} ${message.replace(`${folder}${sep}`, '')}`
      }
    }
    const anyChange = fc.tuple(fc.nat({ max: Math.min(whole.length, 3000) - 1 }), fc.nat({ max: 255 }))
    await fc.assert(
      fc.asyncProperty(fc.array(anyChange, { minLength: 1, maxLength: 3 }), fc.nat(20), async (changes, cut) => {
        const bytes = Buffer.from(whole.subarray(0, cut === 0 ? changes[0][0] : whole.length))
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
        writeFileSync(join(folder, name), bytes)
        expect(await outcome(filesOf(folder))).toEqual(await outcome(folder))
      }),
      { numRuns: 60 },
    )
  })

  it.each([CONFIG, TENSORS])('a missing file: %s', async (name) => {
    const folder = goldenCopy()
    rmSync(join(folder, name))
    writeFileSync(join(folder, 'README.md'), '')
    const { message } = await expectRefused('ERR_LILY_CHECKPOINT', `${name}: `, () =>
      LilyModel.fromPretrained(filesOf(folder)),
    )
    const other = name === CONFIG ? TENSORS : CONFIG
    expect(message).toBe(`${name}: expected it among the files, got "README.md", "${other}"; add it`)
  })

  // Its bytes are never read: a file of pickle is a program.
  it("PyTorch's own format of the tensors", async () => {
    const folder = goldenCopy()
    const pickle = 'adapter_model.bin'
    renameSync(join(folder, TENSORS), join(folder, pickle))
    const message = (advice: string) => `got "${CONFIG}", "${pickle}"; ${advice}`
    await expectRefused('ERR_LILY_CHECKPOINT', message('save the adapter as safetensors with PEFT'), () =>
      LilyModel.fromPretrained(filesOf(folder)),
    )
    await expectRefused(
      'ERR_LILY_CHECKPOINT',
      message('pass the folder of an adapter that PEFT has saved as safe'),
      () => LilyModel.fromPretrained(folder),
    )
  })
})

describe('a Blob that cannot be read', () => {
  const cases: Record<string, Partial<Blob>> = {
    'rejects, as in a browser after the file has changed': {
      slice: () =>
        Object.assign(new Blob([]), {
          arrayBuffer: () => Promise.reject(new DOMException('it has changed', 'NotReadableError')),
        }),
    },
    'ends early': { slice: () => new Blob([]) },
  }
  it.each(Object.entries(cases))('%s', async (_, methods) => {
    const files = bytesIn(GOLDEN)
    for (const name of [CONFIG, TENSORS]) {
      const broken = Object.assign(new Blob([files.get(name)!]), methods)
      await expectRefused('ERR_LILY_CHECKPOINT', `${name}: `, () =>
        LilyModel.fromPretrained(new Map<string, FileData>([...files, [name, broken]])),
      )
    }
    const { message, cause } = await expectRefused('ERR_LILY_CHECKPOINT', 'Blob: ', () =>
      SafetensorsFile.open(Object.assign(new Blob([files.get(TENSORS)!]), methods)),
    )
    if (/changed/.test(String(cause))) expect(message).toContain('it has changed')
  })

  it('after it was opened', async () => {
    const blob = new Blob([bytesIn(GOLDEN).get(TENSORS)!])
    const file = await SafetensorsFile.open(blob)
    blob.slice = () => Object.assign(new Blob([]), { arrayBuffer: () => Promise.reject(new Error('gone')) })
    await expectRefused('ERR_LILY_CHECKPOINT', 'Blob: cannot be read (gone)', () =>
      file.read([...file.tensors.keys()][0]),
    )
  })
})

describe('what is no adapter is refused', () => {
  const file = (name: string) => new File(['{}'], name)
  const wrong: Record<string, [value: unknown, got: string]> = {
    'no files': [[], 'got an array of 0 without files'],
    'an empty object': [{}, 'got an object of type Object without files'],
    'an empty Map': [new Map(), 'without files'],
    paths: [['adapter_config.json'], "with 'adapter_config.json' in it"],
    'Blobs without names': [[new Blob(['{}'])], 'with an object of type Blob in it'],
    'texts by name': [{ [CONFIG]: '{}' }, "with '{}' in it"],
    'another typed array': [{ [CONFIG]: new Uint16Array(2) }, 'with an object of type Uint16Array in it'],
    'one Blob': [new Blob(['{}']), 'got an object of type Blob'],
    'one File': [file(CONFIG), 'got an object of type File'],
    bytes: [new Uint8Array(3), 'got an object of type Uint8Array'],
    'a Set of names': [new Set([CONFIG]), `with '${CONFIG}' in it`],
    'an object of a class': [new Date(0), 'got an object of type Date'],
    'a number': [3, 'got 3'],
  }
  it.each(Object.entries(wrong))('%s', async (_, [value, got]) => {
    for (const model of [LilyModel, LoraModel]) {
      const error = await expectRefused('ERR_LILY_ARGUMENT', got, () => model.fromPretrained(value as PretrainedFiles))
      expect(
        error.message.startsWith(
          'folder: expected a path as a string, a file: URL object, File objects, or an object or a Map from',
        ),
      ).toBe(true)
      expect(error.argument).toBe('folder')
    }
  })

  it('files of several folders', async () => {
    const files = bytesIn(GOLDEN)
    const two = ['a', 'b'].flatMap((folder) =>
      Array.from(files, ([name, bytes]) => picked(`top/${folder}/${name}`, bytes)),
    )
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'folder: expected the files of one folder, got files of "top/a/", "top/b/"',
      () => LilyModel.fromPretrained(two),
    )
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      'folder: expected the files of one folder, got "adapter_config.json" twice',
      () => LilyModel.fromPretrained([file(CONFIG), file(CONFIG)]),
    )
  })

  it('a buffer that has been transferred', async () => {
    const files = bytesIn(GOLDEN)
    const { buffer } = files.get(TENSORS)!
    const views: FileData[] = [buffer, files.get(TENSORS)!]
    structuredClone(buffer, { transfer: [buffer] })
    for (const data of views) {
      await expectRefused('ERR_LILY_ARGUMENT', TENSORS, () =>
        LilyModel.fromPretrained(new Map<string, FileData>([...files, [TENSORS, data]])),
      )
      await expectRefused('ERR_LILY_ARGUMENT', 'detached', () => SafetensorsFile.open(data))
    }
  })
})

describe('a buffer that is transferred while it is read', () => {
  const transfer = (buffer: ArrayBuffer) => structuredClone(null, { transfer: [buffer] })
  const forms: Record<string, (bytes: Uint8Array<ArrayBuffer>) => FileData> = {
    ArrayBuffer: ({ buffer }) => buffer,
    Uint8Array: (bytes) => bytes,
  }
  it.each(Object.entries(forms))('is named: %s', async (_, form) => {
    const files = bytesIn(GOLDEN)
    const pending = LilyModel.fromPretrained(new Map([...files].map(([name, content]) => [name, form(content)])))
    transfer(files.get(CONFIG)!.buffer)
    await expectRefused('ERR_LILY_CHECKPOINT', `${CONFIG}: cannot be read (`, () => pending)
    const bytes = bytesIn(GOLDEN).get(TENSORS)!
    const file = await SafetensorsFile.open(form(bytes))
    transfer(bytes.buffer)
    const [key] = file.tensors.keys()
    await expectRefused('ERR_LILY_CHECKPOINT', 'do not transfer or shrink its buffer', () => file.read(key))
  })
})

describe('the files of a model', () => {
  const classifier = { weight: { data: Float32Array.of(1, 2, 3), shape: [1, 3], dtype: 'float32' as const } }

  async function expectFiles(files: readonly File[], folder: string): Promise<void> {
    const contents = await Promise.all(
      files.map(async (file) => [file.name, latin1(new Uint8Array(await file.arrayBuffer()))]),
    )
    const expected = Array.from(bytesIn(folder), ([name, bytes]) => [name, latin1(bytes)])
    expect(files.every((file) => file instanceof File)).toBe(true)
    expect(Object.fromEntries(contents)).toEqual(Object.fromEntries(expected))
    expect(contents).toHaveLength(expected.length)
  }

  it.each([
    {},
    { format: 'compact' },
    { modulesToSave: { classifier } },
    { format: 'compact', modulesToSave: { classifier } },
  ] as const)('are those that savePretrained writes, and are read again to the bit: %j', async (options) => {
    for (const isFrozen of [false, true]) {
      const model = await LilyModel.fromPretrained(GOLDEN)
      if (isFrozen) model.freeze({ 'layers.1.self_attn.v_proj': [1 / 3, 0.1, -2] })
      const folder = newFolder()
      await model.savePretrained(folder, options)
      const files = await model.pretrainedFiles(options)
      await expectFiles(files, folder)
      await expectFiles(await (await LilyModel.fromPretrained(files)).pretrainedFiles(options), folder)
    }
  })

  it("are PEFT's own, for an adapter that was not changed", async () => {
    await expectFiles(await (await LilyModel.fromPretrained(filesOf(GOLDEN))).pretrainedFiles(), GOLDEN)
    // The fixture has more than the adapter.
    const folder = newFolder()
    for (const name of [CONFIG, TENSORS]) copyFileSync(join(LORA, name), join(folder, name))
    await expectFiles(await (await LoraModel.fromPretrained(filesOf(LORA))).pretrainedFiles(), folder)
  })

  it('of LoRA', async () => {
    const model = await LoraModel.fromPretrained(LORA)
    const folder = newFolder()
    await model.savePretrained(folder, { modulesToSave: { classifier } })
    const files = await model.pretrainedFiles({ modulesToSave: { classifier } })
    await expectFiles(files, folder)
    await expectFiles(await (await LoraModel.fromPretrained(files)).pretrainedFiles(), folder)
  })

  it('of a frozen model as LoRA', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    await expectRefused('ERR_LILY_ARGUMENT', 'freeze', () => model.loraFiles())
    model.freeze('uniform')
    const folder = newFolder()
    await model.saveLora(folder)
    await expectFiles(await model.loraFiles(), folder)
    expect((await LoraModel.fromPretrained(await model.loraFiles())).layers.size).toBe(model.layers.size)
  })

  it('of parameters in shared memory', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    // As WebAssembly with threads has them.
    const values = Array.from(model.allParameters(), ([name, { value }]) => {
      const data = new Float32Array(new SharedArrayBuffer(value.data.byteLength))
      data.set(value.data)
      return [name, tensor(data, value.shape)] as const
    })
    const layers = Array.from(model.layers.values(), ({ name, inFeatures, outFeatures }) => ({
      name,
      inFeatures,
      outFeatures,
    }))
    const shared = LilyModel.fromParts({ config: model.config, layers, values: new Map(values), seed: 1 })
    shared.freeze('uniform')
    const folder = newFolder()
    await shared.savePretrained(folder)
    await expectFiles(await shared.pretrainedFiles(), folder)
    expect(readFileSync(join(folder, TENSORS)).equals(readFileSync(join(GOLDEN, TENSORS)))).toBe(true)
  })

  it('are refused for what savePretrained is refused for', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    await expectRefused('ERR_LILY_ARGUMENT', 'format', () => model.pretrainedFiles({ format: 'lora' as 'peft' }))
    await expectRefused('ERR_LILY_ARGUMENT', 'fromat', () => model.pretrainedFiles({ fromat: 'peft' } as object))
    const lora = await LoraModel.fromPretrained(LORA)
    await expectRefused('ERR_LILY_ARGUMENT', 'format', () => lora.pretrainedFiles({ format: 'compact' as 'peft' }))
    model.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'disposed', () => model.pretrainedFiles())
  })

  it('say why frozen weights cannot be saved in a page without crypto.subtle', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze('uniform')
    const compact = await model.pretrainedFiles({ format: 'compact' })
    const crypto = vi.spyOn(globalThis, 'crypto', 'get').mockReturnValue({} as never)
    try {
      await expectRefused('ERR_LILY_CHECKPOINT', `${FROZEN}: its digest needs crypto.subtle`, () =>
        model.pretrainedFiles(),
      )
      expect((await model.pretrainedFiles({ format: 'compact' })).map(({ size }) => size)).toEqual(
        compact.map(({ size }) => size),
      )
    } finally {
      crypto.mockRestore()
    }
  })
})

describe('SafetensorsFile.open', () => {
  it('reads a Blob, a File and bytes as it reads a path', async () => {
    const path = join(GOLDEN, TENSORS)
    const bytes = bytesIn(GOLDEN).get(TENSORS)!
    const larger = new Uint8Array(bytes.length + 3)
    larger.set(bytes, 3)
    const expected = await SafetensorsFile.open(path)
    const forms: [FileData, string][] = [
      [new Blob([bytes]), 'Blob'],
      [new File([bytes], 'x.safetensors'), 'x.safetensors'],
      [bytes.buffer, 'ArrayBuffer'],
      [bytes, 'Uint8Array'],
      [Buffer.from(bytes), 'Uint8Array'],
      [larger.subarray(3), 'Uint8Array'],
    ]
    for (const [data, name] of forms) {
      const file = await SafetensorsFile.open(data)
      expect(file.path).toBe(name)
      expect(file.tensors).toEqual(expected.tensors)
      expect(file.metadata).toEqual(expected.metadata)
      for (const key of file.tensors.keys()) {
        const content = await expected.readBytes(key)
        expect(await file.read(key)).toEqual(await expected.read(key))
        expect(await file.readBytes(key)).toEqual(content)
        expect(await file.hasBytes(key, content)).toBe(true)
      }
      await file.close()
    }
    await expected.close()
  })
})
