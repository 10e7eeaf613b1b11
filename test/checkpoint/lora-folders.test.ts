/** LoRA folders of PEFT: read and written again bit for bit, and refused with the name of what cannot be honoured. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import { LilyError, LilyModel, LoraModel, tensor } from '../../lib/index.js'
import {
  bytesOf,
  CONFIG,
  GOLDEN,
  newFolder,
  readFields,
  TENSORS,
  withFields,
  withTensors,
} from '../support/checkpoint.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { type Float, pack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const fixtures = fileURLToPath(new URL('../fixtures/lora', import.meta.url))
const caseFolder = (name: string) => join(fixtures, name)
const PLAIN = caseFolder('plain')
const LAYER = 'model.layers.0.self_attn.q_proj'
const KEY = `base_model.model.${LAYER}.lora_`

const filesOf = (folder: string) =>
  Object.fromEntries([CONFIG, TENSORS].map((name) => [name, readFileSync(join(folder, name), 'latin1')]))

const withLoraFields = (fields: object) => withFields(fields, PLAIN)

const refused = (message: string, folder: string) =>
  expectRefused('ERR_LILY_CHECKPOINT', message, () => LoraModel.fromPretrained(folder))

describe("PEFT's folders", () => {
  it.each(['plain', 'rslora', 'patterns', 'bfloat16'])('are written again bit for bit: %s', async (name) => {
    const folder = newFolder()
    const model = await LoraModel.fromPretrained(caseFolder(name))
    await model.savePretrained(folder)
    expect(filesOf(folder)).toEqual(filesOf(caseFolder(name)))
    expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS])
    expect(model.adapterConfig).toEqual(readFields(folder))
  })

  it('give the configuration and the parameters', async () => {
    const model = await LoraModel.fromPretrained(caseFolder('patterns'))
    expect(model.config).toMatchObject({ r: 2, loraAlpha: 8, targetModules: ['down_proj', 'q_proj', 'v_proj'] })
    expect(Object.entries(model.config.rankPattern)).toEqual([
      ['^model.layers.1.mlp.down_proj', 6],
      ['down_proj', 5],
      [String.raw`layers\.[0-9]+\.self_attn\.v_.*`, 3],
    ])
    const stored = readSafetensors(join(caseFolder('patterns'), TENSORS))
    expect(model.parameters().size).toBe(stored.size)
    for (const [name, { value, kind, layers }] of model.parameters()) {
      const { shape, data } = stored.get(`base_model.model.${name}`)!
      expect({ shape: value.shape, data: value.data }, name).toEqual({ shape, data })
      expect([name, kind]).toEqual([`${layers[0]}.lora_${kind === 'a' ? 'A' : 'B'}.weight`, kind])
    }
    expect((await LoraModel.fromPretrained(caseFolder('rslora'))).config).toMatchObject({
      useRslora: true,
      layersToTransform: [1],
      layersPattern: ['layers'],
    })
  })

  it('of an old version of PEFT, with fewer fields and without patterns', async () => {
    const folder = withLoraFields({})
    const { r, lora_alpha, target_modules, peft_type } = readFields(folder)
    const fields = { r, lora_alpha, target_modules, peft_type, bias: 'none', enable_lora: null, merge_weights: false }
    writeFileSync(join(folder, CONFIG), JSON.stringify(fields))
    const model = await LoraModel.fromPretrained(folder)
    expect(model.layer(LAYER).scaling).toBe(2.5)
  })

  it('with null or empty lists and patterns', async () => {
    const empty = { rank_pattern: null, alpha_pattern: null, layers_to_transform: [], target_modules: null }
    const model = await LoraModel.fromPretrained(withLoraFields({ ...empty, exclude_modules: [], bias: null }))
    expect(model.config).toMatchObject({ rankPattern: {}, layersToTransform: null, targetModules: null })
    const texts = await LoraModel.fromPretrained(withLoraFields({ exclude_modules: '', layers_pattern: '' }))
    expect(texts.config).toMatchObject({ excludeModules: null, layersPattern: null })
    // Which PEFT ignores: it refuses a list of modules only where there is no list of indices.
    const noIndex = await LoraModel.fromPretrained(
      withLoraFields({ layers_to_transform: [], layers_pattern: 'layers' }),
    )
    expect(noIndex.config).toEqual(texts.config)
    // Fields of variants that are not supported, without a value.
    const variants = { megatron_config: {}, target_parameters: [], layer_replication: null, use_dora: false }
    expect((await LoraModel.fromPretrained(withLoraFields(variants))).config).toEqual(texts.config)
  })

  it('with a name of an initialisation in any case, as PEFT compares it', async () => {
    const { config } = await LoraModel.fromPretrained(withLoraFields({ init_lora_weights: 'Gaussian' }))
    expect(config.initLoraWeights).toBe('gaussian')
  })

  it('with the whole name of a layer as target, whatever its number is', async () => {
    const names = [...(await LoraModel.fromPretrained(PLAIN)).layers.keys()]
    const fields = { target_modules: names, layers_to_transform: [99] }
    expect((await LoraModel.fromPretrained(withLoraFields(fields))).layers.size).toBe(names.length)
  })

  it('with patterns that need backtracking, whose layers the tensors tell', async () => {
    const targets = String.raw`^(model(?=\.).*\.(q_proj|down_proj|v_proj))$`
    const fields = { target_modules: targets, exclude_modules: '(?!model).*' }
    const folder = withLoraFields(fields)
    const model = await LoraModel.fromPretrained(folder)
    expect([...model.layers.keys()]).toEqual([...(await LoraModel.fromPretrained(PLAIN)).layers.keys()])
    expect(model.config.targetModules).toBe(targets)
    expect(model.layer(LAYER).shape.target).toBe(targets)
    const again = newFolder()
    await model.savePretrained(again)
    expect(filesOf(again)).toEqual(filesOf(folder))
    // The layers of a new adapter are those that its patterns choose.
    const layers = [...model.layers.values()].map(({ shape: { name, inFeatures, outFeatures } }) => ({
      name,
      inFeatures,
      outFeatures,
    }))
    for (const config of [{ targetModules: targets }, { excludeModules: fields.exclude_modules }]) {
      await expectRefused('ERR_LILY_ARGUMENT', 'need backtracking', () => LoraModel.create({ layers, config }))
    }
  })

  // Fields without an effect here: see IGNORED in lib/checkpoint/peft-lora.ts.
  it.each<[string, unknown]>([
    ['loftq_config', { loftq_bits: 4 }],
    ['eva_config', { rho: 2 }],
    ['corda_config', { cache_file: 'x' }],
    ['lora_ga_config', { scale: 'unit' }],
    ['megatron_core', 'other.core'],
    ['qalora_group_size', 8],
    ['runtime_config', { ephemeral_gpu_offload: true }],
    ['ensure_weight_tying', true],
    // No component of a name is one of these, as it is where PEFT adapts nothing.
    ['modules_to_save', ['attn', 'proj', 'q']],
    ['init_lora_weights', 'gaussian'],
    ['init_lora_weights', 'EVA'],
    ['init_lora_weights', 'orthogonal'],
    ['init_lora_weights', false],
    ['task_type', 'SEQ_CLS'],
    ['inference_mode', false],
  ])('with %s as %o compute the same', async (field, value) => {
    const model = await LoraModel.fromPretrained(withLoraFields({ [field]: value }))
    const plain = await LoraModel.fromPretrained(PLAIN)
    const x = tensor(gaussian(randomFrom(1), 24), [2, 12])
    for (const [name, layer] of model.layers) {
      expectSameBits(name, layer.forward({ x }).y.data, plain.layer(name).forward({ x }).y.data)
    }
    expect(model.adapterConfig?.[field]).toEqual(value)
  })

  it('are read in the given order of layers', async () => {
    const names = [...(await LoraModel.fromPretrained(PLAIN)).layers.keys()]
    expect(names).toEqual([...names].sort())
    const layers = [...names].reverse()
    expect([...(await LoraModel.fromPretrained(PLAIN, { layers })).layers.keys()]).toEqual(layers)
    await expectRefused('ERR_LILY_ARGUMENT', 'layers', () => LoraModel.fromPretrained(PLAIN, { layers: ['q'] }))
  })
})

describe('a created model', () => {
  const layers = [0, 1].flatMap((l) => [
    { name: `model.layers.${l}.q_proj`, inFeatures: 12, outFeatures: 10 },
    { name: `model.layers.${l}.down`, inFeatures: 7, outFeatures: 12 },
  ])
  const config = {
    r: 3,
    loraAlpha: 5.5,
    useRslora: true,
    rankPattern: { [String.raw`layers\.1\.q_proj`]: 2, down: 4 },
    alphaPattern: { down: 1.25 },
    targetModules: ['q_proj', 'down'],
  }

  it.each<Float>(['float32', 'bfloat16', 'float16'])('in %s is read again bit for bit', async (dtype) => {
    const model = LoraModel.create({ layers, config, dtype, seed: 1 })
    const random = randomFrom(7)
    for (const { value } of model.parameters().values()) {
      ;(value.data as Float32Array).set(pack(dtype, gaussian(random, value.data.length)))
    }
    const folder = join(newFolder(), 'made', 'as', 'needed')
    await model.savePretrained(folder)
    const read = await LoraModel.fromPretrained(folder)
    expect(read.dtype).toBe(dtype)
    expect(read.config).toEqual(model.config)
    const valuesOf = ({ layers }: LoraModel) =>
      new Map([...layers].map(([name, { a, b, r, scaling }]) => [name, [a.value.data, b.value.data, r, scaling]]))
    expect(valuesOf(read)).toEqual(valuesOf(model))
  })

  it('writes the fields and the keys of PEFT', async () => {
    const folder = newFolder()
    await LoraModel.create({ layers, config, seed: 1 }).savePretrained(folder)
    const known = Object.keys(readFields(PLAIN))
    expect(Object.keys(readFields(folder)).filter((name) => !known.includes(name))).toEqual([])
    expect(readFields(folder)).toMatchObject({
      peft_type: 'LORA',
      r: 3,
      lora_alpha: 5.5,
      use_rslora: true,
      rank_pattern: config.rankPattern,
      alpha_pattern: config.alphaPattern,
      target_modules: ['down', 'q_proj'],
      bias: 'none',
      init_lora_weights: true,
      fan_in_fan_out: false,
      use_dora: false,
      lora_dropout: 0,
    })
    expect([...readSafetensors(join(folder, TENSORS)).keys()].slice(0, 3)).toEqual([
      'base_model.model.model.layers.0.down.lora_A.weight',
      'base_model.model.model.layers.0.down.lora_B.weight',
      'base_model.model.model.layers.0.q_proj.lora_A.weight',
    ])
  })

  it('carries modules_to_save', async () => {
    const folder = newFolder()
    const weight = { dtype: 'float32' as const, shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) }
    const model = LoraModel.create({ layers, config, seed: 1 })
    await model.savePretrained(folder, { modulesToSave: { classifier: { weight } } })
    const read = await LoraModel.fromPretrained(folder)
    expect(read.modulesToSave.get('classifier')?.get('weight')).toEqual(weight)
    expect(readFields(folder).modules_to_save).toEqual(['classifier'])
    const again = newFolder()
    await read.savePretrained(again)
    expect(filesOf(again)).toEqual(filesOf(folder))
    await expectRefused('ERR_LILY_ARGUMENT', 'modulesToSave', () =>
      read.savePretrained(again, { modulesToSave: { 'q.lora_A': { weight } } }),
    )
  })

  it('lists a module of modules_to_save once that is listed by the end of its name', async () => {
    const [folder, again] = [newFolder(), newFolder()]
    const weight = { dtype: 'float32' as const, shape: [1], data: Float32Array.of(1) }
    await LoraModel.create({ layers, config }).savePretrained(folder, {
      modulesToSave: { 'bert.classifier': { weight } },
    })
    const listed = withFields({ modules_to_save: ['classifier'] }, folder)
    const read = await LoraModel.fromPretrained(listed)
    await read.savePretrained(again, { modulesToSave: read.modulesToSave })
    expect(filesOf(again)).toEqual(filesOf(listed))
  })

  // PEFT also takes a module for 'proj' whose name ends so, without a dot.
  it.each(['down', 'layers.0', 'model.layers.1.q_proj', 'proj', 's.1'])(
    'refuses %s of modules_to_save, because PEFT would have no adapter in it',
    async (module) => {
      const folder = join(newFolder(), 'none')
      const weight = tensor([1], [1])
      await expectRefused('ERR_LILY_ARGUMENT', 'modulesToSave: expected modules without adapted layers', () =>
        LoraModel.create({ layers, config }).savePretrained(folder, {
          modulesToSave: { classifier: { weight }, [module]: { weight } },
        }),
      )
      expect(existsSync(folder)).toBe(false)
    },
  )

  it('has no number of a layer beside a pattern, with which PEFT refuses the configuration', async () => {
    const folder = newFolder()
    const targets = { targetModules: String.raw`.*\.down`, layersToTransform: [0], layersPattern: 'layers' }
    await LoraModel.create({ layers, config: { r: 3, ...targets } }).savePretrained(folder)
    const { target_modules, layers_to_transform, layers_pattern } = readFields(folder)
    expect({ target_modules, layers_to_transform, layers_pattern }).toEqual({
      target_modules: String.raw`.*\.down`,
      layers_to_transform: null,
      layers_pattern: null,
    })
  })

  it('refuses the compact format, which is for shared parameters', async () => {
    const folder = join(newFolder(), 'none')
    const model = LoraModel.create({ layers, config })
    await expectRefused('ERR_LILY_ARGUMENT', "format: expected one of 'peft'", () =>
      model.savePretrained(folder, { format: 'compact' as never }),
    )
    expect(existsSync(folder)).toBe(false)
  })

  it("writes 'gaussian' as the initialisation, and reads it again", async () => {
    const folder = newFolder()
    await LoraModel.create({ layers, config: { ...config, initLoraWeights: 'gaussian' } }).savePretrained(folder)
    expect(readFields(folder).init_lora_weights).toBe('gaussian')
    expect((await LoraModel.fromPretrained(folder)).config.initLoraWeights).toBe('gaussian')
  })
})

describe('a folder that holds an adapter of another method', () => {
  const layers = [{ name: 'q_proj', inFeatures: 12, outFeatures: 12 }]
  const lora = () => LoraModel.create({ layers, config: { r: 3 }, seed: 1 })
  const lily = () => LilyModel.create({ layers, config: { r: 3, numB: 2 }, seed: 1 })
  const others: [string, () => LilyModel | LoraModel, () => string, string][] = [
    [
      'LoRA over Lily',
      lora,
      () => GOLDEN,
      'expected no adapter of another method than LoRA in the folder, got peft_type "LILY"',
    ],
    [
      'Lily over LoRA',
      lily,
      () => PLAIN,
      'expected no adapter of another method than Lily in the folder, got peft_type "LORA"',
    ],
    [
      'Lily over another',
      lily,
      () => withFields({ peft_type: 'IA3' }),
      'got peft_type "IA3"; choose another folder, or set',
    ],
  ]

  it.each(others)('is not replaced: %s', async (_, model, source, message) => {
    const folder = newFolder()
    cpSync(source(), folder, { recursive: true })
    const [before, files] = [filesOf(folder), readdirSync(folder).sort()]
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => model().savePretrained(folder))
    expect(filesOf(folder)).toEqual(before)
    expect(readdirSync(folder).sort()).toEqual(files)
  })

  it.each(others)('is replaced with replaceOtherMethod: %s', async (_, model, source) => {
    const [folder, fresh] = [newFolder(), newFolder()]
    cpSync(source(), folder, { recursive: true })
    await model().savePretrained(folder, { replaceOtherMethod: true })
    await model().savePretrained(fresh)
    expect(filesOf(folder)).toEqual(filesOf(fresh))
  })

  it('is replaced as a whole: the compact file and the frozen weights of Lily are removed', async () => {
    const folder = newFolder()
    const frozen = lily()
    frozen.freeze('uniform')
    await frozen.savePretrained(folder, { format: 'compact' })
    await lora().savePretrained(folder, { replaceOtherMethod: true })
    expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS])
  })
})

it('a frozen Lily adapter that was saved as LoRA computes the same', async () => {
  const lily = await LilyModel.fromPretrained(GOLDEN)
  lily.freeze('uniform')
  const folder = newFolder()
  await lily.saveLora(folder)
  const lora = await LoraModel.fromPretrained(folder)
  expect([...lora.layers.keys()].sort()).toEqual([...lily.layers.keys()].sort())
  const random = randomFrom(2)
  for (const [name, layer] of lora.layers) {
    const { inFeatures } = layer
    const x = tensor(gaussian(random, 3 * inFeatures), [3, inFeatures])
    const [ours, theirs] = [layer.forward({ x }).y.data, lily.layer(name).forward({ x }).y.data]
    expect(relativeError(ours as Float32Array, theirs as Float32Array), name).toBeLessThan(1e-6)
  }
})

describe('refused with the name of', () => {
  const fields: [string, unknown, string][] = [
    ['use_dora', true, 'DoRA'],
    ['lora_bias', true, 'a bias beside B'],
    ['use_qalora', true, 'QA-LoRA'],
    ['use_bdlora', { nblocks: 2 }, 'BD-LoRA'],
    ['alora_invocation_tokens', [1, 2], 'aLoRA'],
    ['arrow_config', { top_k: 3 }, 'Arrow'],
    ['kasa_config', { beta: 1 }, 'KaSA'],
    ['velora_config', { num_groups: 2 }, 'VeLoRA'],
    ['monteclora_config', { num_samples: 8 }, 'MonteCLoRA'],
    // PEFT reads an empty object as the defaults of these.
    ['kasa_config', {}, 'KaSA'],
    ['velora_config', {}, 'VeLoRA'],
    ['monteclora_config', {}, 'MonteCLoRA'],
    ['layer_replication', [[0, 2]], 'replication of layers'],
    ['megatron_config', { size: 2 }, 'Megatron'],
    ['target_parameters', ['experts.gate_up_proj'], 'adapters of parameters outside linear layers'],
    ['trainable_token_indices', [0], 'rows of an embedding'],
    ['bias', 'all', 'got "all": trained biases'],
    ['bias', 'lora_only', 'trained biases'],
    ['init_lora_weights', 'pissa', 'got "pissa"'],
    ['init_lora_weights', 'pissa_niter_16', 'path_initial_model_for_weight_conversion'],
    ['init_lora_weights', 'olora', 'other base weights'],
    ['init_lora_weights', 'corda', 'other base weights'],
    ['init_lora_weights', 'loftq', 'other base weights, those that LoftQ has quantized; merge it'],
    ['init_lora_weights', 'lora_ga', 'other base weights; convert it with'],
    ['init_lora_weights', 'mica', 'train otherwise, with B frozen; set it to true'],
    ['init_lora_weights', 'new', 'other base weights, or train otherwise'],
    ['init_lora_weights', 3, 'got 3'],
    ['peft_type', 'LILY', 'expected peft_type \'LORA\', got "LILY"; load it with LilyModel'],
    ['peft_type', 'LOHA', 'expected peft_type \'LORA\', got "LOHA"; only adapters of Lily and LoRA can be loaded'],
    ['something_new', 1, '"something_new"; remove'],
    ['r', 0, 'r: expected an integer from 1 to 4096'],
    ['r', [], 'r: expected an integer from 1 to 4096'],
    ['r', null, 'r: expected an integer from 1 to 4096, got null'],
    ['lora_alpha', null, 'lora_alpha: expected a finite float32 number, got null'],
    [
      'modules_to_save',
      ['head', 'self_attn'],
      `got layer "${LAYER}" in a module that modules_to_save of adapter_config.json`,
    ],
    ['lora_alpha', '', 'lora_alpha: expected a finite'],
    ['r', 5, 'expected shape [5, d_in]'],
    ['lora_alpha', 'x', 'lora_alpha: expected a finite'],
    ['use_rslora', 'yes', 'use_rslora: expected true or false'],
    ['rank_pattern', { q_proj: 0 }, "rank_pattern['q_proj']: expected an integer"],
    ['rank_pattern', { '(': 3 }, 'rank_pattern: expected a regular expression'],
    ['rank_pattern', { v_proj: 3 }, 'expected shape [3, d_in]'],
    ['rank_pattern', [3], 'rank_pattern: expected a Map or a plain object'],
    ['alpha_pattern', { v_proj: null }, "alpha_pattern['v_proj']: expected a finite"],
    ['target_modules', ['q_proj'], 'which adapter_config.json excludes'],
    ['exclude_modules', ['v_proj'], 'which adapter_config.json excludes'],
    ['target_modules', ['k_proj'], 'its layers do not fit adapter_config.json: target_modules: expected a match'],
    ['layers_to_transform', [0], 'exclude_modules or layers_to_transform'],
    ['layers_to_transform', [9], 'its layers do not fit adapter_config.json: layers_to_transform: expected an index'],
  ]
  it.each(fields)('%s: %o', async (field, value, message) => {
    const folder = withLoraFields({ [field]: value })
    const error = await refused(message, folder)
    expect(error.message).toContain(field === 'peft_type' || field === 'something_new' ? folder : CONFIG)
  })

  const bytes = (values: number[]) => new Uint8Array(Float32Array.from(values).buffer)
  const anyTensor = bytesOf('F32', [2], bytes([1, 2]))
  const tensors: Record<string, [message: string, change: (tensors: Map<string, TensorSource>) => void]> = {
    'the vector of DoRA': ['DoRA is not supported', (all) => all.set(`${KEY}magnitude_vector`, anyTensor)],
    'the adapter of an embedding': [
      'the adapter of an embedding is not supported',
      (all) => all.set('base_model.model.embed_tokens.lora_embedding_A', anyTensor),
    ],
    'nothing but the adapter of an embedding': [
      'the adapter of an embedding is not supported',
      (all) => {
        all.clear()
        all.set('base_model.model.embed_tokens.lora_embedding_B', anyTensor)
      },
    ],
    'a bias beside B': ['a bias beside B is not supported', (all) => all.set(`${KEY}B.bias`, anyTensor)],
    'a key with the name of an adapter': [
      'lora_A.weight or .lora_B.weight; rename',
      (all) => all.set(`${KEY}A.default.weight`, anyTensor),
    ],
    'a key without the prefix': ['; rename', (all) => all.set(`${LAYER}.lora_A.weight`, anyTensor)],
    'the adapter of torch.nn.MultiheadAttention': [
      `got layer "${LAYER}.base_layer.out_proj" inside of another one; adapters of torch.nn.MultiheadAttention`,
      (all) => {
        for (const end of ['A', 'B'] as const) {
          all.set(`base_model.model.${LAYER}.base_layer.out_proj.lora_${end}.weight`, all.get(`${KEY}${end}.weight`)!)
        }
      },
    ],
    'a missing B': [
      `"${KEY}B.weight", got none; save the adapter with .lora_A.weight and .lora_B.weight`,
      (all) => all.delete(`${KEY}B.weight`),
    ],
    'a missing A': [`"${KEY}A.weight", got none`, (all) => all.delete(`${KEY}A.weight`)],
    'no tensors': ['expected tensors base_model.model.<layer>.lora_A.weight, got none', (all) => all.clear()],
    'B of another rank': [
      'expected shape [d_out, 4]',
      (all) => all.set(`${KEY}B.weight`, bytesOf('F32', [12, 3], bytes(Array<number>(36).fill(1)))),
    ],
    'a transposed B': [
      'expected shape [d_out, 4]',
      (all) => all.set(`${KEY}B.weight`, bytesOf('F32', [4, 12], bytes(Array<number>(48).fill(1)))),
    ],
    'the A of a convolution': [
      'expected shape [4, d_in]',
      (all) => all.set(`${KEY}A.weight`, bytesOf('F32', [4, 3, 2, 2], bytes(Array<number>(48).fill(1)))),
    ],
    'two types': ['expected F32', (all) => all.set(`${KEY}B.weight`, bytesOf('BF16', [12, 4], new Uint8Array(96)))],
    'a type that is no float': [
      'expected F32',
      (all) => all.set(`${KEY}B.weight`, bytesOf('I32', [12, 4], new Uint8Array(192))),
    ],
    'a NaN': [
      'expected finite numbers, got an infinity or NaN at [0, 1]',
      (all) => all.set(`${KEY}B.weight`, bytesOf('F32', [12, 4], bytes([1, NaN, ...Array<number>(46).fill(1)]))),
    ],
  }
  it.each(Object.entries(tensors))('%s', async (_, [message, change]) => {
    await refused(message, await withTensors(change, PLAIN))
  })

  it('a Lily adapter and a LoRA adapter that the other class loads', async () => {
    await refused('load it with LilyModel', GOLDEN)
    await expectRefused('ERR_LILY_CHECKPOINT', 'load it with LoraModel', () => LilyModel.fromPretrained(PLAIN))
  })

  it('files that are not there', async () => {
    await refused(CONFIG, newFolder())
    const folder = newFolder()
    writeFileSync(join(folder, CONFIG), readFileSync(join(PLAIN, CONFIG)))
    await refused(TENSORS, folder)
    mkdirSync(join(folder, TENSORS))
    await refused(TENSORS, folder)
    await expectRefused('ERR_LILY_ARGUMENT', 'folder', () => LoraModel.fromPretrained(3 as never))
  })

  it('any value in any field, with a LilyError of a few lines', async () => {
    const folder = withLoraFields({})
    const known = readFields(folder)
    const anyValue = fc.oneof(
      fc.constantFrom(null, true, false, 0, -1, 1.5, 1e300, '', 'q_proj', '(?=q)', [], {}, [1], ['x'], [['x']]),
      fc.dictionary(fc.constantFrom('q_proj', '.*', '0', '', '(', '__proto__'), fc.constantFrom(null, 1, 'x', 4, {})),
    )
    const anyFields = fc.dictionary(fc.constantFrom(...Object.keys(known), 'else'), anyValue, { maxKeys: 3 })
    await fc.assert(
      fc.asyncProperty(anyFields, async (fields) => {
        writeFileSync(join(folder, CONFIG), JSON.stringify({ ...known, ...fields }))
        try {
          const model = await LoraModel.fromPretrained(folder)
          expect(model.layers.size).toBe(4)
        } catch (error) {
          expect(error).toBeInstanceOf(LilyError)
          const { code, message } = error as LilyError
          expect([code, message.startsWith(folder)], message).toEqual(['ERR_LILY_CHECKPOINT', true])
          expect(message.length).toBeLessThan(folder.length + 650)
        }
      }),
      { numRuns: 300 },
    )
  })
})
