/** Whatever the files of a checkpoint hold, and whatever is given as a path, what is thrown is a LilyError of a few lines. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LilyError, LilyModel, SafetensorsFile, writeSafetensors } from '../../lib/index.js'
import { CONFIG, goldenCopy, newFolder, readFields, RUNS, TENSORS } from '../support/checkpoint.js'
import { expectRefused } from '../refusals/refused.js'

/** Characters of a message beside the path. */
const MOST_CHARACTERS = 650

/** What must end in a value or a LilyError about this file or its field. */
async function expectLilyErrors(path: string, action: () => Promise<unknown>): Promise<void> {
  try {
    await action()
  } catch (error) {
    expect(error).toBeInstanceOf(LilyError)
    const { code, message } = error as LilyError
    expect(code, message).toBe('ERR_LILY_CHECKPOINT')
    expect(message.startsWith(path), message).toBe(true)
    expect(message.length, message).toBeLessThan(path.length + MOST_CHARACTERS)
  }
}

const TRICKS = ['toString', 'valueOf', 'toJSON', '__proto__', 'constructor', 'length', 'then']
const anyKey = fc.oneof(fc.string({ unit: 'binary', maxLength: 5 }), fc.constantFrom(...TRICKS))
const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 8 }),
  fc.constantFrom(...TRICKS, 'F32', 'BF16', '(', '(?=q)', '.*', '(a{1000}){1000}', 'q_proj', '\0', '\n'),
  fc.constantFrom('x', '\0', 'é', '"').map((character) => character.repeat(3000)),
)
const { json: anyJson } = fc.letrec<{ json: unknown }>((tie) => ({
  json: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    fc.constantFrom(null, true, false, 0, -0, 1, 0.5, -1, 2 ** 53, 1e300, [], {}),
    fc.integer(),
    anyText,
    fc.array(tie('json'), { maxLength: 4 }),
    fc.dictionary(anyKey, tie('json'), { maxKeys: 3 }),
    fc.constantFrom(0, 'x', null).map((value) => Array.from({ length: 3000 }, () => value)),
  ),
}))

describe('what is thrown is a LilyError', () => {
  it('of adapter_config.json with any value in any field', async () => {
    const folder = goldenCopy()
    const path = join(folder, CONFIG)
    const fields = readFields(folder)
    const anyFields = fc.dictionary(fc.oneof(fc.constantFrom(...Object.keys(fields)), anyKey), anyJson, { maxKeys: 4 })
    await fc.assert(
      fc.asyncProperty(anyFields, async (changed) => {
        writeFileSync(path, JSON.stringify({ ...fields, ...changed }))
        // What the file says of the tensors may be wrong with those.
        await expectLilyErrors(folder, () => LilyModel.fromPretrained(folder))
      }),
      { numRuns: RUNS },
    )
  })

  it('of a safetensors header with any value anywhere', async () => {
    const path = join(newFolder(), TENSORS)
    const entry = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
    const anyEntry = fc
      .record({ dtype: anyJson, shape: anyJson, data_offsets: anyJson, extra: anyJson }, { requiredKeys: [] })
      .map((changed) => ({ ...entry, ...changed }))
    const anyHeader = fc.oneof(
      anyJson,
      fc.dictionary(anyKey, fc.oneof(anyEntry, anyJson), { maxKeys: 3 }),
      anyJson.map((metadata) => ({ x: entry, __metadata__: metadata })),
      anyEntry.map((changed) => ({ x: changed })),
    )
    await fc.assert(
      fc.asyncProperty(anyHeader, async (header) => {
        const json = Buffer.from(JSON.stringify(header))
        const prefix = Buffer.alloc(8)
        prefix.writeBigUInt64LE(BigInt(json.length))
        writeFileSync(path, Buffer.concat([prefix, json, Buffer.alloc(8)]))
        await expectLilyErrors(path, async () => {
          const file = await SafetensorsFile.open(path)
          for (const name of file.tensors.keys()) await file.readBytes(name)
          await file.close()
        })
      }),
      { numRuns: RUNS },
    )
  })

  it('of a configuration that is no UTF-8', async () => {
    const folder = goldenCopy()
    writeFileSync(join(folder, CONFIG), Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))
    await expectRefused('ERR_LILY_CHECKPOINT', 'expected the configuration to be UTF-8', () =>
      LilyModel.fromPretrained(folder),
    )
  })

  it('of a configuration with a million fields or values', async () => {
    const folder = goldenCopy()
    const fields = Array.from({ length: 1_100_000 }, (_, i) => `"${i.toString(36)}":1`).join(',')
    for (const text of [`{${fields}}`, `{"x":[${'{},'.repeat(4_000_000)}0]}`, ' '.repeat(2 ** 24 + 1)]) {
      writeFileSync(join(folder, CONFIG), text)
      await expectLilyErrors(folder, async () => {
        await LilyModel.fromPretrained(folder)
        expect.unreachable()
      })
    }
  })

  it('of a list of layers that is none', async () => {
    const folder = goldenCopy()
    for (const layers of [[undefined], ['x'], [Symbol('x')], 3]) {
      const options = { layers } as { layers: string[] }
      await expectRefused('ERR_LILY_ARGUMENT', 'layers: expected', () => LilyModel.fromPretrained(folder, options))
    }
  })

  it("of a caller's values that take long to print", async () => {
    const hostile = [{ [Symbol.toStringTag]: 'x'.repeat(1e5) }, 10n ** 5000n]
    for (const value of hostile) {
      for (const field of ['r', 'scaling', 'targetModules', 'layersToTransform', 'layersPattern', 'initWeights']) {
        const layers = [{ name: 'q', inFeatures: 2, outFeatures: 2 }]
        const error = await expectRefused('ERR_LILY_ARGUMENT', field, () =>
          LilyModel.create({ layers, config: { [field]: value } }),
        )
        expect(error.message.length).toBeLessThan(MOST_CHARACTERS)
      }
    }
  })
})

describe('a path', () => {
  const tensors = new Map([['x', { data: new Float32Array(2), shape: [2], dtype: 'float32' as const }]])
  const model = LilyModel.create({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: { r: 1 } })

  it('may be a file: URL', async () => {
    const folder = join(newFolder(), 'ä b%')
    mkdirSync(folder)
    const url = pathToFileURL(folder)
    const file = pathToFileURL(join(folder, 'x.safetensors'))
    await writeSafetensors(file, tensors)
    const opened = await SafetensorsFile.open(file)
    expect(opened.path).toBe(join(folder, 'x.safetensors'))
    await opened.close()
    await model.savePretrained(url)
    expect(existsSync(join(folder, CONFIG))).toBe(true)
    expect((await LilyModel.fromPretrained(url)).layers.size).toBe(1)
    const frozen = LilyModel.create({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: { r: 1 } })
    frozen.freeze('uniform')
    await frozen.saveLora(pathToFileURL(join(folder, 'lora')))
    expect(existsSync(join(folder, 'lora', CONFIG))).toBe(true)
  })
})
