/**
 * Damaged GGUF files: the error names the field, and nothing is allocated by what a file says.
 *
 * @project cpu
 */
import { beforeAll, describe, expect, it, test } from 'vitest'
import { ggufFile, loadGguf } from '../../lib/gguf/index.js'
import { LilyError, LoraModel } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { encodeGguf } from '../support/gguf-encode.js'
import { integer, randomFrom } from '../support/random.js'

const NAME = 'blk.0.attn_q.weight.lora_a'
let bytes: Buffer

beforeAll(async () => {
  const layers = ['q_proj', 'v_proj'].map((name) => ({
    ...{ name: `model.layers.0.self_attn.${name}`, inFeatures: 8, outFeatures: 8 },
  }))
  const model = LoraModel.create({ layers, config: { r: 2, targetModules: ['q_proj', 'v_proj'] }, seed: 1 })
  const base = { model_type: 'llama', num_attention_heads: 2 }
  bytes = Buffer.from(await (await ggufFile(model, { base })).arrayBuffer())
})

/** A copy with a number of 32 or 64 bits at a position, which may be relative to the end of a text. */
function withNumber(position: number | string, value: number | bigint, offset = 0): Uint8Array<ArrayBuffer> {
  const copy = Buffer.from(bytes)
  const at = (typeof position === 'number' ? position : bytes.indexOf(position) + position.length) + offset
  if (typeof value === 'bigint') copy.writeBigUInt64LE(value, at)
  else copy.writeUInt32LE(value, at)
  return new Uint8Array(copy)
}

/** A copy with another text of the same length. */
function withText(text: string, other: string): Uint8Array<ArrayBuffer> {
  const copy = Buffer.from(bytes)
  copy.write(other, bytes.indexOf(text), 'latin1')
  return new Uint8Array(copy)
}

describe('a damaged file', () => {
  const huge = 2n ** 40n
  // A tensor: its name, the number of dimensions (4 bytes), two of them (8), the type (4), the offset (8).
  const cases: Record<string, [file: () => Uint8Array<ArrayBuffer>, message: string]> = {
    'of another format': [() => withNumber(0, 0), 'expected a GGUF file'],
    empty: [() => new Uint8Array(), 'the magic number'],
    'for big-endian machines': [() => withNumber(4, 0x03000000), 'version 50331648'],
    'with 2^40 tensors': [() => withNumber(8, huge), 'the number of tensors'],
    'with 2^40 metadata entries': [() => withNumber(16, huge), 'the number of metadata entries'],
    'with a count of 2^64 - 1': [() => withNumber(8, 2n ** 64n - 1n), 'below 2^53'],
    'with a key of 2^40 bytes': [() => withNumber(24, huge), 'metadata key 0'],
    'with a value of 2^40 bytes': [() => withNumber('general.type', huge, 4), '"general.type"'],
    'with a value of an unknown type': [() => withNumber('general.type', 99), 'a type from 0 to 12'],
    'with a list of 2^40 numbers': [
      () => {
        const copy = Buffer.from(withNumber('general.type', 9))
        copy.writeUInt32LE(5, bytes.indexOf('general.type') + 16)
        return new Uint8Array(copy)
      },
      '"general.type"',
    ],
    'with a key twice': [() => withText('adapter.type', 'general.type'), 'expected one value, got two'],
    'with a tensor without dimensions': [() => withNumber(NAME, 0), '1 to 4 dimensions'],
    'with a tensor of 5 dimensions': [() => withNumber(NAME, 5), '1 to 4 dimensions'],
    'with a dimension of 0': [() => withNumber(NAME, 0n, 4), 'dimensions of at least 1'],
    'with sizes whose product overflows': [() => withNumber(NAME, 2n ** 52n, 4), 'that the file can hold'],
    'with a quantised tensor': [() => withNumber(NAME, 8, 20), 'may be quantised'],
    'with an offset beyond the end': [() => withNumber(NAME, 32n * 2n ** 30n, 24), 'within the'],
    'with an offset that is not aligned': [() => withNumber(NAME, 8n, 24), 'a multiple of 32'],
    'with tensors that overlap': [
      () => withNumber('blk.0.attn_v.weight.lora_a', 0n, 24),
      'behind the data of other tensors',
    ],
    'with half of a layer': [() => withText(NAME, NAME.replace('_a', '_c')), '_c'],
    'with a name that is a path': [() => withText('blk.0.attn_q', '../../../etc'), '../../../etc'],
    'with a name of another architecture': [() => withText('blk.0.attn_q', 'blk.0.attn_x'), 'blk.0.attn_x'],
    'that is no adapter': [() => withText('adapter', 'another'), 'general.type'],
  }
  test.each(Object.entries(cases))('%s', async (_, [file, message]) => {
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => loadGguf(file()))
  })

  it.each([3, 0, 2 ** 20])('with the alignment %i', async (alignment) => {
    const file = encodeGguf({ 'general.alignment': { uint32: alignment } }, new Map())
    await expectRefused('ERR_LILY_CHECKPOINT', 'a power of two', () => loadGguf(new Uint8Array(file)))
  })

  it('truncated anywhere', async () => {
    for (let length = 0; length < bytes.length; length += 7) {
      await expectRefused('ERR_LILY_CHECKPOINT', '', () => loadGguf(new Uint8Array(bytes.subarray(0, length))))
    }
  })
})

test('20,000 files with random changes load, or are refused', async () => {
  const random = randomFrom(11)
  const counts = { loaded: 0, refused: 0 }
  const header = bytes.indexOf('blk.0.attn_v.weight.lora_b') + 60
  for (let i = 0; i < 20_000; i++) {
    const copy = new Uint8Array(bytes)
    for (let change = integer(random, 1, 3); change > 0; change--) {
      copy[integer(random, 0, header)] = integer(random, 0, 3) === 0 ? 255 : integer(random, 0, 255)
    }
    try {
      await loadGguf(copy)
      counts.loaded++
    } catch (error) {
      if (!(error instanceof LilyError)) throw error
      counts.refused++
    }
  }
  expect(counts.refused).toBeGreaterThan(counts.loaded)
  expect(counts.loaded).toBeGreaterThan(0)
}, 60_000)
