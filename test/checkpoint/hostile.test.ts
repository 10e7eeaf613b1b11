/** Damaged or inconsistent adapter folders: the error names the file, the field or tensor, and a fix. */
import { readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { LilyError, LilyModel, LoraModel } from '../../lib/index.js'
import {
  bytesOf,
  CONFIG,
  goldenCopy,
  newFolder,
  readFields,
  RUNS,
  TENSORS,
  withFields,
  withTensors,
} from '../support/checkpoint.js'
import { expectRefused } from '../refusals/refused.js'

const KEY = 'base_model.model.layers.1.self_attn.q_proj'
const A = `${KEY}.lily_A.weight`
const ROUTER = `${KEY}.lily_router.weight`

/** Loading the folder fails, and the message contains each of these texts. The first is the name of the file. */
async function expectRefusal(folder: string, file: string, ...texts: string[]): Promise<void> {
  const { message } = await expectRefused('ERR_LILY_CHECKPOINT', '', () => LilyModel.fromPretrained(folder))
  expect(message.startsWith(join(folder, file)), message).toBe(true)
  for (const text of texts) expect(message).toContain(text)
}

describe('the configuration', () => {
  const texts: Record<string, [text: string, ...messages: string[]]> = {
    'no JSON': ['{"r": 8,', 'expected the configuration to be valid JSON'],
    'JSON that is no object': ['[]', 'expected a JSON object'],
    'JSON nested deeply': ['['.repeat(100_000), 'at most 127 levels of nesting'],
  }
  it.each(Object.entries(texts))('%s', async (_, [text, ...messages]) => {
    const folder = goldenCopy()
    writeFileSync(join(folder, CONFIG), text)
    await expectRefusal(folder, CONFIG, ...messages)
  })

  it('too large', async () => {
    const folder = goldenCopy()
    // Windows takes the room of a whole file from the disk.
    const size = process.platform === 'win32' ? 2 ** 24 + 1 : 2 ** 40
    truncateSync(join(folder, CONFIG), size)
    await expectRefusal(folder, CONFIG, `at most 16777216 bytes, got ${size}`)
  })

  it('does not exist', async () => {
    const folder = goldenCopy()
    rmSync(join(folder, CONFIG))
    await expectRefusal(folder, CONFIG, `expected this file in the folder, got "${TENSORS}"; pass the folder`)
  })

  it('given in the place of its folder', async () => {
    const expected = 'expected the path of a folder, got one that names a file'
    for (const name of [CONFIG, TENSORS]) await expectRefusal(join(goldenCopy(), name), '', expected)
  })
})

describe('configuration and tensors of two adapters', () => {
  it('another rank', async () => {
    const folder = withFields({ r: 4 })
    await expectRefusal(folder, TENSORS, 'lily_A.weight": expected shape [4, d_in]', 'got [8, 32]')
  })
  it('another number of experts', async () => {
    await expectRefusal(withFields({ num_B: 2 }), TENSORS, 'lily_B.weight": expected shape [16, d_out]', 'got [24, ')
  })
  it('another stride', async () => {
    await expectRefusal(
      withFields({ stride_A: 4 }),
      TENSORS,
      'lily_A.weight": expected an equal copy in each of the 3 other layers that share it',
      '"base_model.model.layers.2.self_attn.',
      '"base_model.model.layers.3.self_attn.',
    )
  })
  it('targets that leave out a layer', async () => {
    await expectRefusal(withFields({ target_modules: ['q_proj'] }), TENSORS, 'layers.0.self_attn.v_proj', 'excludes')
  })
  it('targets that match no layer', async () => {
    await expectRefusal(withFields({ target_modules: ['mlp'] }), TENSORS, 'do not fit adapter_config.json')
  })
})

describe('the tensors', () => {
  const patch = (name: string, change: (numbers: Float32Array) => void) => (tensors: Map<string, TensorSource>) => {
    const { dtype, shape, bytes } = tensors.get(name)!
    const numbers = new Float32Array(Uint8Array.from(bytes() as Uint8Array).buffer)
    change(numbers)
    tensors.set(name, bytesOf(dtype, shape, numbers))
  }
  const everywhere = (change: (source: TensorSource) => TensorSource) => (tensors: Map<string, TensorSource>) => {
    for (const [name, source] of tensors) tensors.set(name, change(source))
  }
  const halves = (dtype: string, bits: number) =>
    everywhere(({ shape }) => bytesOf(dtype, shape, new Uint16Array(shape[0] * shape[1]).fill(bits)))

  const changes: Record<string, [change: (tensors: Map<string, TensorSource>) => void, ...messages: string[]]> = {
    'a copy that differs by one bit': [
      patch(A, (numbers) => (new Uint32Array(numbers.buffer)[255] ^= 1)),
      'tensor "base_model.model.layers.0.self_attn.q_proj.lily_A.weight": expected an equal copy',
      A,
    ],
    'copies of b that differ': [
      (tensors) => {
        for (const l of [1, 2, 3]) {
          patch(`base_model.model.layers.${l}.self_attn.v_proj.lily_B.weight`, (numbers) => numbers.fill(l))(tensors)
        }
      },
      'layers.0.self_attn.v_proj.lily_B.weight": expected an equal copy in each of the 3',
      'layers.3.self_attn.v_proj.lily_B.weight"; pass the names of all layers',
    ],
    NaN: [patch(ROUTER, (numbers) => (numbers[9] = NaN)), `tensor "${ROUTER}": expected finite`, 'at [1, 1]'],
    infinity: [patch(ROUTER, (numbers) => (numbers[0] = -Infinity)), `tensor "${ROUTER}"`, 'at [0, 0]'],
    'NaN in bfloat16': [halves('BF16', 0x7fc0), 'expected finite numbers'],
    'infinity in float16': [halves('F16', 0xfc00), 'expected finite numbers'],
    'a router left out': [(tensors) => tensors.delete(ROUTER), `expected a tensor "${ROUTER}", got none`],
    'an A left out': [(tensors) => tensors.delete(A), `expected a tensor "${A}", got none`],
    'a vector for a matrix': [
      (tensors) => tensors.set(A, bytesOf('F32', [256], new Float32Array(256))),
      `tensor "${A}": expected shape [8, d_in]`,
      'got [256]',
    ],
    'a copy of another shape': [
      (tensors) => tensors.set(A, bytesOf('F32', [32, 8], new Float32Array(256))),
      `tensor "${A}": expected shape [8, d_in]`,
      'got [32, 8]',
    ],
    'two types': [
      (tensors) => tensors.set(ROUTER, bytesOf('BF16', [3, 8], new Uint16Array(24))),
      `tensor "${ROUTER}": expected F32, as `,
      'got BF16',
    ],
    'a router of another shape': [
      (tensors) => tensors.set(ROUTER, bytesOf('F32', [8, 3], new Float32Array(24))),
      `tensor "${ROUTER}": expected shape [3, 8]`,
    ],
    'a type without numbers here': [
      everywhere(({ shape }) => bytesOf('F64', shape, new Float64Array(shape[0] * shape[1]))),
      'expected data type F32, BF16 or F16, got F64',
    ],
    "a name that is not PEFT's": [
      (tensors) => tensors.set(`${KEY}.lily_C.weight`, bytesOf('F32', [1], new Float32Array(1))),
      `tensor "${KEY}.lily_C.weight": expected base_model.model.<layer>.lily_A.weight`,
    ],
    'no tensors of Lily': [(tensors) => tensors.clear(), 'expected tensors base_model.model.<layer>.lily_A.weight'],
  }
  it.each(Object.entries(changes))('%s', async (_, [change, ...messages]) => {
    await expectRefusal(await withTensors(change), TENSORS, ...messages)
  })

  it('truncated', async () => {
    const folder = goldenCopy()
    writeFileSync(join(folder, TENSORS), new Uint8Array(100))
    await expectRefusal(folder, TENSORS)
  })
  it('missing', async () => {
    const folder = goldenCopy()
    renameSync(join(folder, TENSORS), join(folder, 'adapter_model.bin'))
    const got = `got "${CONFIG}", "adapter_model.bin"; pass the folder of an adapter that PEFT has saved as safetensors`
    await expectRefusal(folder, TENSORS, got)
  })
  it('a link to a blob that was not downloaded', async () => {
    const folder = goldenCopy()
    rmSync(join(folder, TENSORS))
    symlinkSync('../blobs/none', join(folder, TENSORS))
    await expectRefusal(folder, TENSORS, 'got a link to one that does not exist; download the adapter again')
  })
})

describe('the compact form', () => {
  it('next to the standard form', async () => {
    const folder = goldenCopy()
    writeFileSync(join(folder, 'adapter_model.compact.safetensors'), '')
    await expectRefusal(folder, '', 'got both')
  })

  const metadata: Record<string, [layers: string, ...messages: string[]]> = {
    'no JSON': ['[[', 'expected its metadata lily_layers to be valid JSON'],
    'no list': ['{}', 'expected its metadata lily_layers to be an array'],
    'layers without sizes': ['[["layers.0.q_proj"]]', 'layers[0].inFeatures'],
    'a number for a layer': ['[3]', 'layers[0].name'],
    'layers twice': ['[["q_proj", 4, 4], ["q_proj", 4, 4]]', "got 'q_proj' twice"],
    'layers without tensors': ['[["layers.9.q_proj", 32, 32]]', 'layers.9.q_proj.lily_A.weight", got none'],
  }
  it.each(Object.entries(metadata))('%s', async (_, [layers, ...messages]) => {
    const folder = newFolder()
    writeFileSync(join(folder, CONFIG), JSON.stringify(readFields(goldenCopy())))
    const header = Buffer.from(JSON.stringify({ __metadata__: { lily_layers: layers } }))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    writeFileSync(join(folder, 'adapter_model.compact.safetensors'), Buffer.concat([length, header]))
    await expectRefusal(folder, 'adapter_model.compact.safetensors', ...messages)
  })
})

describe('random damage', () => {
  /** Loading returns a model or throws a LilyError, and does not crash. */
  async function load(folder: string): Promise<LilyModel | null> {
    try {
      return await LilyModel.fromPretrained(folder)
    } catch (error) {
      expect(error).toBeInstanceOf(LilyError)
      expect((error as LilyError).code).toBe('ERR_LILY_CHECKPOINT')
      return null
    }
  }

  it('of the fields', async () => {
    const folder = goldenCopy()
    const fields = readFields(folder)
    const anyValue = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom('(', '.*', 'q_proj', -1, 1, 2 ** 40, 0.5, '', [], ['q_proj', 'v_proj'], [0, 1], ['(']),
    )
    const anyFields = fc.dictionary(fc.constantFrom(...Object.keys(fields), '__proto__', 'x'), anyValue, { maxKeys: 4 })
    await fc.assert(
      fc.asyncProperty(anyFields, async (changed) => {
        writeFileSync(join(folder, CONFIG), JSON.stringify({ ...fields, ...changed }))
        await load(folder)
      }),
      { numRuns: RUNS },
    )
  })

  it.each([CONFIG, TENSORS])('of the bytes of %s', async (name) => {
    const folder = goldenCopy()
    const whole = readFileSync(join(folder, name))
    const anyChange = fc.tuple(fc.nat({ max: Math.min(whole.length, 3000) - 1 }), fc.nat({ max: 255 }))
    await fc.assert(
      fc.asyncProperty(fc.array(anyChange, { minLength: 1, maxLength: 3 }), fc.nat(20), async (changes, cut) => {
        const bytes = Buffer.from(whole.subarray(0, cut === 0 ? changes[0][0] : whole.length))
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
        writeFileSync(join(folder, name), bytes)
        await load(folder)
      }),
      { numRuns: RUNS },
    )
  })
})

describe('lists of LoRA beside 4000 layers', () => {
  const shapes = Array.from({ length: 4000 }, (_, i) => ({
    name: `model.layers.${i}.q`,
    inFeatures: 1,
    outFeatures: 1,
  }))
  const most = <T>(element: (i: number) => T, length = 2 ** 17) => Array.from({ length }, (_, i) => element(i))
  const byName = (name: (i: number) => string, length?: number) =>
    Object.fromEntries(most((i): [string, number] => [name(i), 1], length))
  const costly = most((i) => `(?:.*a?){100}x${i}`, 16)
  const more = (field: string) => `${field}: expected at most 131072`
  const long = (field: string) =>
    new RegExp(`^adapter_config.json: ${field}: expected (?:names|patterns) of at most 10000`)
  const steps = (field: string) =>
    new RegExp(`adapter_config.json: ${field}: the pattern .* takes more than \\d+ steps`)
  const longNames = (i: number) => `${'a'.repeat(2 ** 14)}${1000 + i}`
  const large = 'by their repetitions the patterns are too large together'

  let saved: Promise<File[]> | undefined

  /** Loads them; the code and the message of the error if it is refused. */
  async function load(fields: object): Promise<string> {
    const [tensors] = await (saved ??= LoraModel.create({ layers: shapes, config: { r: 1 } }).pretrainedFiles())
    const config = JSON.stringify({ peft_type: 'LORA', r: 1, lora_alpha: 1, target_modules: ['q'], ...fields })
    try {
      const model = await LoraModel.fromPretrained({ [CONFIG]: new Blob([config]), [TENSORS]: tensors })
      expect(model.modulesToSave.size).toBe(0)
      return `${model.layers.size} layers`
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_LILY_CHECKPOINT' })
      return (error as LilyError).message
    }
  }

  // Where a list took more than linear time, it exceeded the timeout.
  it.each<[string, object, string | RegExp]>([
    ['target_modules', { target_modules: ['q', ...most((i) => `x${i}`, 2 ** 17 - 1)] }, '4000 layers'],
    ['target_modules, more', { target_modules: most((i) => `x${i}`, 2 ** 20 - 99) }, more('target_modules')],
    ['target_modules, long names', { target_modules: most(longNames, 900) }, long('target_modules')],
    ['target_modules, a pattern', { target_modules: `(?:.*a?){900}|.*` }, steps('target_modules')],
    ['exclude_modules', { exclude_modules: most((i) => `x${i}`) }, '4000 layers'],
    ['exclude_modules, more', { exclude_modules: most((i) => `x${i}`, 2 ** 20 - 99) }, more('exclude_modules')],
    ['exclude_modules, long names', { exclude_modules: most(longNames, 900) }, long('exclude_modules')],
    ['exclude_modules, a pattern', { exclude_modules: '(?:.*a?){900}x' }, steps('exclude_modules')],
    ['modules_to_save', { modules_to_save: most((i) => `x${i}`) }, '4000 layers'],
    ['modules_to_save, more', { modules_to_save: most((i) => `x${i}`, 2 ** 20 - 99) }, more('modules_to_save')],
    ['layers_to_transform', { layers_to_transform: most((i) => i) }, '4000 layers'],
    ['layers_to_transform, more', { layers_to_transform: most((i) => i, 2 ** 20 - 99) }, more('layers_to_transform')],
    ['layers_pattern', { layers_to_transform: most((i) => i), layers_pattern: ['x', 'layers'] }, '4000 layers'],
    ['layers_pattern, costly', { layers_to_transform: [1], layers_pattern: costly }, steps('layers_pattern')],
    ['rank_pattern', { rank_pattern: byName((i) => `model.layers.${i}.q`) }, '4000 layers'],
    ['rank_pattern, more', { rank_pattern: byName((i) => `x${i}`, 2 ** 19) }, more('rank_pattern')],
    ['rank_pattern, long names', { rank_pattern: byName(longNames, 900) }, 'names of at most 10000 characters in the'],
    ['rank_pattern, costly', { rank_pattern: byName((i) => costly[i], 16) }, steps('rank_pattern')],
    ['rank_pattern, large', { rank_pattern: byName((i) => `(a{999})b${i}`, 1200) }, large],
    [
      'rank_pattern, without case',
      { rank_pattern: { [`(?i:${'[\u0100-\ufff0]'.repeat(500)})`]: 1 } },
      'counting 500 for one beyond ASCII',
    ],
    ['alpha_pattern', { alpha_pattern: byName((i) => `model.layers.${i}.q`) }, '4000 layers'],
    ['alpha_pattern, costly', { alpha_pattern: byName((i) => costly[i], 16) }, steps('alpha_pattern')],
  ])('%s', { timeout: 20_000 }, async (_, fields, expected) => {
    expect(await load(fields)).toMatch(expected)
  })
})
