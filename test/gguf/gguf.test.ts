/**
 * GGUF adapters: what a file says about the model it was made of, and back.
 *
 * @project cpu
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, test } from 'vitest'
import { ggufFile, loadGguf, saveGguf } from '../../lib/gguf/index.js'
import { LilyModel, LoraModel, type LoraConfigOptions } from '../../lib/index.js'
import { expectRefused } from '../refusals/refused.js'
import { gaussian, randomFrom } from '../support/random.js'
import { temporaryFolder } from '../support/temporary.js'
import { swapped } from '../support/tiny-llama.js'
import { decodeGguf, type Decoded } from '../support/gguf-decode.js'

// Heads of 8 rows: with 4 the permutation is its own inverse.
const LLAMA = { model_type: 'llama', num_attention_heads: 2, num_key_value_heads: 1 }
const [d, dKey, heads] = [16, 8, 2]
const block = (i: number, name: string) => `model.layers.${i}.${name}`
const LAYERS = [0, 1].flatMap((i) => [
  { name: block(i, 'self_attn.q_proj'), inFeatures: d, outFeatures: d },
  { name: block(i, 'self_attn.k_proj'), inFeatures: d, outFeatures: dKey },
  { name: block(i, 'mlp.down_proj'), inFeatures: 24, outFeatures: d },
])

/** A LoRA model with random numbers in A and B. */
function loraModel(config: LoraConfigOptions = {}, layers = LAYERS): LoraModel {
  const model = LoraModel.create({ layers, config: { r: 3, loraAlpha: 5, ...config }, seed: 1 })
  const random = randomFrom(7)
  for (const { value } of model.parameters().values()) value.data.set(gaussian(random, value.data.length))
  return model
}

/** What llama.cpp adds to the weight of a tensor, [d_out, d_in]: alpha / r B A. */
function updateOf({ metadata, tensors }: Decoded, name: string): number[] {
  const [a, b] = [tensors.get(`${name}.lora_a`), tensors.get(`${name}.lora_b`)]
  if (a === undefined || b === undefined) throw new Error(`no ${name}`)
  const [r, dIn] = a.shape
  const scale = Number(metadata.get('adapter.lora.alpha')) / r
  return product(a.values, b.values, r, dIn, scale)
}

function product(a: ArrayLike<number>, b: ArrayLike<number>, r: number, dIn: number, scale: number): number[] {
  return Array.from({ length: (b.length / r) * dIn }, (_, i) => {
    let sum = 0
    for (let k = 0; k < r; k++) sum += b[Math.floor(i / dIn) * r + k] * a[k * dIn + (i % dIn)]
    return scale * sum
  })
}

function expectClose(actual: readonly number[], expected: readonly number[], relative = 1e-6): void {
  const size = Math.max(...expected.map(Math.abs))
  expect(actual).toHaveLength(expected.length)
  expect(Math.max(...actual.map((value, i) => Math.abs(value - expected[i])))).toBeLessThanOrEqual(relative * size)
}

const decoded = async (...args: Parameters<typeof ggufFile>) =>
  decodeGguf(await (await ggufFile(...args)).arrayBuffer())

describe('saveGguf', () => {
  it('names the metadata and the tensors as llama.cpp does, innermost dimension first', async () => {
    const { metadata, tensors } = await decoded(loraModel(), { base: LLAMA })
    expect(Object.fromEntries(metadata)).toEqual({
      'general.architecture': 'llama',
      'general.type': 'adapter',
      'adapter.type': 'lora',
      'adapter.lora.alpha': 5,
      'llama.attention.head_count': 2,
      'llama.attention.head_count_kv': 1,
    })
    expect(Array.from(tensors, ([name, { shape }]) => [name, shape]).slice(0, 6)).toEqual([
      ['blk.0.attn_q.weight.lora_a', [3, d]],
      ['blk.0.attn_q.weight.lora_b', [d, 3]],
      ['blk.0.attn_k.weight.lora_a', [3, d]],
      ['blk.0.attn_k.weight.lora_b', [dKey, 3]],
      ['blk.0.ffn_down.weight.lora_a', [3, 24]],
      ['blk.0.ffn_down.weight.lora_b', [d, 3]],
    ])
  })

  const configs: Record<string, LoraConfigOptions> = {
    'one alpha': {},
    rsLoRA: { useRslora: true },
    'alphas by layer': { alphaPattern: { 'layers.1.mlp.down_proj': 11 } },
    'ranks by layer': { rankPattern: { k_proj: 2 } },
    'an alpha of zero for some layers': { alphaPattern: { q_proj: 0 } },
    'an alpha of zero': { loraAlpha: 0 },
  }
  test.each(Object.entries(configs))(
    '%s: the update is that of the model, with the rows of q and k permuted',
    async (_, config) => {
      const model = loraModel(config)
      const file = await decoded(model, { base: LLAMA })
      expect(file.metadata.get('adapter.lora.alpha')).not.toBe(0)
      for (const { name, a, b, scaling } of model.layers.values()) {
        const [r, dIn] = a.value.shape
        const update = product(a.value.data, b.value.data, r, dIn, scaling)
        const [, i, end] = /layers\.(\d)\.\w+\.(\w+)_proj/.exec(name) ?? []
        if (end === 'down') expectClose(updateOf(file, `blk.${i}.ffn_down.weight`), update)
        else expectClose(updateOf(file, `blk.${i}.attn_${end}.weight`), swapped(update, dIn, end === 'q' ? heads : 1))
      }
    },
  )

  const architectures: [model_type: string, name: string, permutes: boolean][] = [
    ['llama', 'llama', true],
    ['mistral', 'llama', true],
    ['mistral3', 'mistral3', true],
    ['ministral3', 'mistral3', true],
    ['qwen2', 'qwen2', false],
    ['qwen3', 'qwen3', false],
    ['gemma', 'gemma', false],
    ['gemma2', 'gemma2', false],
    ['gemma3_text', 'gemma3', false],
  ]
  test.each(architectures)('%s is %s, whose rows of k are permuted: %s', async (model_type, name, permutes) => {
    const model = loraModel()
    const file = await decoded(model, { base: { ...LLAMA, model_type } })
    expect(file.metadata.get('general.architecture')).toBe(name)
    const { a, b, scaling } = model.layer(block(1, 'self_attn.k_proj'))
    const update = product(a.value.data, b.value.data, 3, d, scaling)
    expectClose(updateOf(file, 'blk.1.attn_k.weight'), permutes ? swapped(update, d, 1) : update)
  })

  it('reads the fields of the text model, and names of layers inside of it', async () => {
    const layers = [{ name: 'model.language_model.layers.2.self_attn.q_proj', inFeatures: d, outFeatures: d }]
    const base = { model_type: 'gemma3', text_config: { model_type: 'gemma3_text' } }
    const { tensors } = await decoded(loraModel({}, layers), { base })
    expect([...tensors.keys()][0]).toBe('blk.2.attn_q.weight.lora_a')
  })

  it('knows the layers of phi3', async () => {
    const layers = ['self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj'].map((name) => ({
      ...{ name: block(0, name), inFeatures: d, outFeatures: 8 },
    }))
    const { tensors } = await decoded(loraModel({}, layers), { base: { model_type: 'phi3' } })
    const names = [...tensors.keys()].filter((name) => name.endsWith('a'))
    expect(names).toEqual(
      ['attn_qkv', 'attn_output', 'ffn_up', 'ffn_down'].map((name) => `blk.0.${name}.weight.lora_a`),
    )
  })
})

describe('loadGguf', () => {
  const folder = temporaryFolder()

  test.each(Object.entries({ plain: {}, ranks: { rankPattern: { k_proj: 2 } } }))(
    'gives the numbers of a saved model back (%s)',
    async (name, config) => {
      const model = loraModel(config)
      const path = join(folder, `${name}.gguf`)
      writeFileSync(join(folder, 'config.json'), JSON.stringify(LLAMA))
      await saveGguf(path, model, { base: join(folder, 'config.json') })
      const loaded = await loadGguf(path)
      expect(loaded.training).toBe(false)
      expect([...loaded.layers.keys()]).toEqual([...model.layers.keys()].sort())
      for (const layer of model.layers.values()) {
        const other = loaded.layer(layer.name)
        expect(other.scaling).toBe(layer.scaling)
        expect(other.a.value.data).toEqual(layer.a.value.data)
        expect(other.b.value.data).toEqual(layer.b.value.data)
      }
      const again = await (await ggufFile(loaded, { base: LLAMA })).arrayBuffer()
      expect(decodeGguf(again).tensors.size).toBe(2 * LAYERS.length)
    },
  )

  it('reads float16, and files in memory', async () => {
    const file = await ggufFile(loraModel(), { base: LLAMA, dtype: 'float16' })
    const loaded = await loadGguf(new Uint8Array(await file.arrayBuffer()))
    const { tensors } = decodeGguf(await file.arrayBuffer())
    const a = loaded.layer(block(0, 'mlp.down_proj')).a.value.data
    expect([...a]).toEqual([...(tensors.get('blk.0.ffn_down.weight.lora_a')?.values ?? [])])
  })

  it('needs the heads for rows of q and k that llama.cpp permutes', async () => {
    const bytes = new Uint8Array(await (await ggufFile(loraModel(), { base: LLAMA })).arrayBuffer())
    // Another name for the key of the heads.
    const at = Buffer.from(bytes).indexOf('llama.attention.head_count')
    bytes[at] = 'x'.charCodeAt(0)
    await expectRefused('ERR_LILY_ARGUMENT', 'num_key_value_heads', () => loadGguf(bytes))
    const loaded = await loadGguf(bytes, { base: LLAMA })
    expect(loaded.layer(block(0, 'self_attn.q_proj')).b.value.data).toEqual(
      loraModel().layer(block(0, 'self_attn.q_proj')).b.value.data,
    )
    await expectRefused('ERR_LILY_CHECKPOINT', "'qwen2'", () => loadGguf(bytes, { base: { model_type: 'qwen2' } }))
  })
})

describe('refusals', () => {
  const lily = (routing: 'batch' | 'sequence' | 'token') =>
    LilyModel.create({ layers: LAYERS, config: { r: 2, routing }, seed: 1 })

  test.each(['batch', 'sequence', 'token'] as const)('routing %s', async (routing) => {
    const { message } = await expectRefused('ERR_LILY_ARGUMENT', 'model', () =>
      ggufFile(lily(routing), { base: LLAMA }),
    )
    expect(message).toContain('freeze')
  })

  const bases: Record<string, [base: unknown, message: string]> = {
    'another architecture': [{ model_type: 'mamba' }, 'base.model_type: expected one of'],
    'no architecture': [{}, 'got none'],
    'the text model of mistral4': [{ model_type: 'mistral3', text_config: { model_type: 'mistral4' } }, '"mistral4"'],
    'no heads': [{ model_type: 'llama' }, 'num_attention_heads'],
    'heads that do not divide the rows': [
      { model_type: 'llama', num_attention_heads: 5 },
      'got 5 heads for the 16 rows',
    ],
    'heads that are no count': [{ ...LLAMA, num_attention_heads: 0 }, 'base.num_attention_heads: expected an integer'],
    'an array': [[], 'expected the path'],
    nothing: [undefined, 'expected the path'],
  }
  test.each(Object.entries(bases))('%s', async (_, [base, message]) => {
    await expectRefused('ERR_LILY_ARGUMENT', message, () => ggufFile(loraModel(), { base: base as never }))
  })

  test.each(['vision_tower.layers.0.self_attn.q_proj', 'model.layers.0.mlp.experts.1.down_proj'])(
    'the layer %s',
    async (name) => {
      const model = loraModel({ targetModules: [name] }, [{ name, inFeatures: d, outFeatures: d }])
      await expectRefused('ERR_LILY_ARGUMENT', name, () => ggufFile(model, { base: LLAMA }))
    },
  )

  it('lm_head, where it has the weight of the embedding', async () => {
    const model = loraModel({ targetModules: ['lm_head'] }, [{ name: 'lm_head', inFeatures: d, outFeatures: 32 }])
    for (const base of [{ ...LLAMA, tie_word_embeddings: true }, { model_type: 'gemma2' }])
      await expectRefused('ERR_LILY_ARGUMENT', 'whose weight is the embedding', () => ggufFile(model, { base }))
    const file = await ggufFile(model, { base: LLAMA })
    expect([...decodeGguf(await file.arrayBuffer()).tensors.keys()][0]).toBe('output.weight.lora_a')
    expect([...(await loadGguf(file)).layers.keys()]).toEqual(['lm_head'])
  })

  it('numbers that are infinite, or become so', async () => {
    const model = loraModel()
    const { data } = model.layer(block(0, 'mlp.down_proj')).b.value
    data[5] = 1e5
    await expectRefused('ERR_LILY_CHECKPOINT', 'blk.0.ffn_down.weight.lora_b', () =>
      ggufFile(model, { base: LLAMA, dtype: 'float16' }),
    )
    data[5] = NaN
    await expectRefused('ERR_LILY_CHECKPOINT', 'blk.0.ffn_down.weight.lora_b', () => ggufFile(model, { base: LLAMA }))
  })

  it('what is no model, and options that are misspelt', async () => {
    await expectRefused('ERR_LILY_ARGUMENT', 'model', () => ggufFile({} as never, { base: LLAMA }))
    await expectRefused('ERR_LILY_ARGUMENT', 'type', () => ggufFile(loraModel(), { base: LLAMA, type: 'f16' } as never))
  })
})
