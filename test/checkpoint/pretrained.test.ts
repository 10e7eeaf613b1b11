/**
 * Adapter folders: files of PEFT are read and written again bit for bit, in both formats.
 *
 * @project cpu wasm
 */
import { existsSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { fileSystemError } from '../../lib/checkpoint/errors.js'
import {
  type AdapterModel,
  analyse,
  cast,
  type LayerShape,
  type LilyConfigOptions,
  LilyModel,
  LoraModel,
  SafetensorsFile,
  type SaveOptions,
  tensor,
  writeSafetensors,
} from '../../lib/index.js'
import {
  bytesOf,
  CONFIG,
  GOLDEN,
  goldenCopy,
  newFolder,
  readFields,
  TENSORS,
  withFields,
  withTensors,
} from '../support/checkpoint.js'
import { expectSameBits } from '../support/compare.js'
import { type Float, pack } from '../support/dtypes.js'
import { gaussian, randomFrom } from '../support/random.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const LORA = fileURLToPath(new URL('../fixtures/lora/plain', import.meta.url))
const COMPACT = 'adapter_model.compact.safetensors'

const filesOf = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'latin1')]))

/** The bits of the parameters. */
const valuesOf = (model: LilyModel) =>
  new Map(Array.from(model.parameters(), ([name, { value }]) => [name, { shape: value.shape, data: value.data }]))

/** A model with distinct numbers. */
function randomModel(layers: readonly LayerShape[], config: LilyConfigOptions, dtype: Float = 'float32'): LilyModel {
  const model = LilyModel.create({ layers, config, dtype, seed: 1 })
  const random = randomFrom(7)
  for (const { value } of model.parameters().values()) {
    ;(value.data as Float32Array).set(pack(dtype, gaussian(random, value.data.length)))
  }
  return model
}

const layersOf = (count: number, ...names: string[]): LayerShape[] =>
  Array.from({ length: count }, (_, l) =>
    names.map((name) => ({ name: `model.layers.${l}.${name}`, inFeatures: 12, outFeatures: 10 })),
  ).flat()

const namesOf = (layers: readonly LayerShape[]) => layers.map(({ name }) => name)

const PARTS = Array.from({ length: 21 }, (_, i) => `m${i}`)
const under = (...parents: string[]) => parents.flatMap((parent) => PARTS.map((part) => `${parent}.${part}`))

describe("PEFT's folder", () => {
  it('gives the configuration and each parameter once', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    expect(model.config).toMatchObject({
      r: 8,
      strideA: 2,
      numB: 3,
      scaling: 2,
      targetModules: ['q_proj', 'v_proj'],
      initWeights: false,
    })
    expect([...model.layers.keys()].sort()).toEqual(
      [0, 1, 2, 3].flatMap((l) => [`layers.${l}.self_attn.q_proj`, `layers.${l}.self_attn.v_proj`]),
    )
    const stored = readSafetensors(join(GOLDEN, TENSORS))
    // Per target: A of two blocks, and B; per layer: a router.
    expect(model.parameters().size).toBe(2 * (2 + 1) + 8)
    for (const [name, { value, layers }] of model.parameters()) {
      for (const layer of layers) {
        const key = `base_model.model.${layer}${/\.lily_.*$/.exec(name)![0]}`
        expect({ shape: value.shape, data: value.data }, key).toEqual(stored.get(key))
      }
    }
  })

  it('is written again key for key and bit for bit', async () => {
    const folder = join(newFolder(), 'made', 'as', 'needed')
    await (await LilyModel.fromPretrained(GOLDEN)).savePretrained(folder)
    expect(filesOf(folder)).toEqual(filesOf(GOLDEN))
  })

  it('is written again after conversion to the compact form and back', async () => {
    const folder = newFolder()
    const model = await LilyModel.fromPretrained(GOLDEN)
    await model.savePretrained(folder, { format: 'compact' })
    expect(readdirSync(folder).sort()).toEqual([COMPACT, CONFIG].sort())

    const compact = await LilyModel.fromPretrained(folder)
    expect([...compact.layers.keys()]).toEqual([...model.layers.keys()])
    expect(valuesOf(compact)).toEqual(valuesOf(model))
    await compact.savePretrained(folder)
    expect(filesOf(folder)).toEqual(filesOf(GOLDEN))
  })

  it('keeps fields and tensors that do not belong to Lily', async () => {
    const classifier = Float32Array.of(1, 2, 3)
    const count = BigInt64Array.of(5n)
    const folder = await withTensors((tensors) => {
      tensors.set('base_model.model.classifier.weight', bytesOf('F32', [1, 3], classifier))
      tensors.set('base_model.model.classifier.count', bytesOf('I64', [], count))
    })
    const fields = { ...readFields(GOLDEN), modules_to_save: ['classifier'], task_type: 'SEQ_CLS', future_flag: false }
    writeFileSync(join(folder, CONFIG), JSON.stringify(fields))
    for (const format of ['peft', 'compact'] as const) {
      const again = newFolder()
      await (await LilyModel.fromPretrained(folder)).savePretrained(again, { format })
      await (await LilyModel.fromPretrained(again)).savePretrained(again, { format: 'peft' })
      expect(filesOf(again)).toEqual(filesOf(folder))
    }
  })
})

it.each([
  ['Lily', LilyModel, GOLDEN, 'lily_'],
  ['LoRA', LoraModel, LORA, 'lora_'],
] as const)(
  'tensors beside the parameters may have the name of the method in a component: %s',
  async (_, Model, of, end) => {
    const module = `f${end}head`
    const folder = await withTensors((tensors) => {
      tensors.set(`base_model.model.${module}.weight`, bytesOf('F32', [1, 2], Float32Array.of(1, 2)))
      // Of an adapted output layer, which PEFT saves with its base weight.
      tensors.set('base_model.model.lm_head.base_layer.weight', bytesOf('F32', [1, 2], Float32Array.of(3, 4)))
    }, of)
    writeFileSync(join(folder, CONFIG), JSON.stringify({ ...readFields(of), modules_to_save: [module] }))
    const model = await Model.fromPretrained(folder)
    expect([...(model.modulesToSave.get(module)?.get('weight')?.data ?? [])]).toEqual([1, 2])
    const again = newFolder()
    await model.savePretrained(again)
    expect(filesOf(again)).toEqual(filesOf(folder))
  },
)

describe('a created model', () => {
  it('writes the fields that PEFT writes', async () => {
    const folder = newFolder()
    const config = { r: 3, strideA: 2, numB: 2, scaling: 0.5 }
    await randomModel(layersOf(2, 'q_proj', 'k_proj'), config).savePretrained(folder)
    const text = readFileSync(join(folder, CONFIG), 'utf8')
    expect(Object.keys(readFields(folder))).toEqual(Object.keys(readFields(GOLDEN)))
    expect(readFields(folder)).toMatchObject({
      peft_type: 'LILY',
      r: 3,
      stride_A: 2,
      num_B: 2,
      scaling: 0.5,
      target_modules: ['k_proj', 'q_proj'],
      init_weights: true,
    })
    // json.dumps(indent=2) writes no newline at the end.
    expect(text.endsWith('\n}')).toBe(true)
    expect([...readSafetensors(join(folder, TENSORS)).keys()].slice(0, 3)).toEqual(
      ['A', 'B', 'router'].map((part) => `base_model.model.model.layers.0.k_proj.lily_${part}.weight`),
    )
  })

  // json.dumps of Python escapes DEL, too, which JSON.stringify does not.
  it('writes its configuration in ASCII', async () => {
    const folder = newFolder()
    const layers = [{ name: 'layers.0.ü\u007f😀', inFeatures: 2, outFeatures: 2 }]
    await LilyModel.create({ layers, config: { r: 1 } }).savePretrained(folder)
    const text = readFileSync(join(folder, CONFIG), 'utf8')
    expect(text).toContain(String.raw`"\u00fc\u007f\ud83d\ude00"`)
    expect(text).toMatch(/^[\n -~]*$/)
    // As PEFT saves it: an adapter that is loaded is not trained unless the program says so.
    expect(readFields(folder)).toMatchObject({ peft_type: 'LILY', inference_mode: true })
  })

  it.each(['float32', 'bfloat16', 'float16'] as const)('in %s is read again bit for bit', async (dtype) => {
    const folder = newFolder()
    // Twelve layers in blocks of five: layers.10 precedes layers.2 in the file, and the last block is short.
    const layers = layersOf(12, 'q_proj', 'mlp')
    const model = randomModel(layers, { r: 3, strideA: 5, numB: 2, targetModules: ['q_proj', 'mlp'] }, dtype)
    for (const format of ['peft', 'compact'] as const) {
      await model.savePretrained(folder, { format })
      const read = await LilyModel.fromPretrained(folder)
      expect(read.dtype).toBe(dtype)
      expect(read.config).toEqual(model.config)
      expect(new Map([...valuesOf(read)].sort())).toEqual(new Map([...valuesOf(model)].sort()))
    }
  })

  it('with another order of layers is read in the given order', async () => {
    const folder = newFolder()
    const layers = layersOf(4, 'q_proj').reverse()
    const model = randomModel(layers, { r: 3, strideA: 3, numB: 2 })
    await model.savePretrained(folder)
    await expectRefused(
      'ERR_LILY_CHECKPOINT',
      'got different ones in "base_model.model.model.layers.1.q_proj.lily_A.weight", ',
      () => LilyModel.fromPretrained(folder),
    )
    const names = namesOf(layers)
    const read = await LilyModel.fromPretrained(folder, { layers: names })
    expect([...read.layers.keys()]).toEqual(names)
    expect(valuesOf(read)).toEqual(valuesOf(model))

    for (const wrong of [names.slice(1), [...names, names[0]], [...names.slice(1), 'elsewhere'], 'names']) {
      await expectRefused('ERR_LILY_ARGUMENT', 'layers', () =>
        LilyModel.fromPretrained(folder, { layers: wrong as string[] }),
      )
    }
    // The compact form stores the order.
    await read.savePretrained(folder, { format: 'compact' })
    expect([...(await LilyModel.fromPretrained(folder)).layers.keys()]).toEqual(names)
    expect(valuesOf(await LilyModel.fromPretrained(folder, { layers: names }))).toEqual(valuesOf(model))
    const sorted = [...names].reverse()
    for (const wrong of [sorted, names.slice(1), [...names.slice(1), 'elsewhere'], 'names']) {
      await expectRefused('ERR_LILY_ARGUMENT', 'layers', () =>
        LilyModel.fromPretrained(folder, { layers: wrong as string[] }),
      )
    }
  })

  it('in the compact form is read with the layers of several targets in any order that shares the same', async () => {
    const folder = newFolder()
    const model = randomModel(layersOf(4, 'q_proj', 'v_proj'), { r: 3, strideA: 2, numB: 2 })
    await model.savePretrained(folder, { format: 'compact' })
    const names = [...model.layers.keys()]
    const byTarget = ['q_proj', 'v_proj'].flatMap((target) => names.filter((name) => name.endsWith(target)))
    expect(byTarget).not.toEqual(names)
    expect(valuesOf(await LilyModel.fromPretrained(folder, { layers: byTarget }))).toEqual(valuesOf(model))
    // The block of two layers has the same first layer, and another second one.
    const [first, second, third, fourth] = byTarget
    const wrong = [first, fourth, third, second, ...byTarget.slice(4)]
    await expectRefused('ERR_LILY_ARGUMENT', 'layers: expected the order that', () =>
      LilyModel.fromPretrained(folder, { layers: wrong }),
    )
  })

  it('with a pattern that needs backtracking is read as one target, analysed and saved in every form', async () => {
    const layers = layersOf(3, 'q_proj', 'v_proj')
    const model = randomModel(layers, { r: 3, strideA: 2, numB: 2, targetModules: String.raw`.*\.[qv]_proj` })
    const folder = newFolder()
    await model.savePretrained(folder)
    const targets = String.raw`^(model)(?!.*(lm_head|visual)).*_proj`
    writeFileSync(join(folder, CONFIG), JSON.stringify({ ...readFields(folder), target_modules: targets }))

    const order = namesOf(layers)
    const read = await LilyModel.fromPretrained(folder, { layers: order })
    expect(valuesOf(read)).toEqual(valuesOf(model))
    const analyses = [await analyse(read), await analyse(model)]
    expect(analyses[0]).toEqual({ ...analyses[1], targets: [{ ...analyses[1].targets[0], target: targets }] })

    const [compact, again, lora] = [newFolder(), newFolder(), newFolder()]
    await read.savePretrained(compact, { format: 'compact' })
    expect(valuesOf(await LilyModel.fromPretrained(compact))).toEqual(valuesOf(model))
    await read.savePretrained(again)
    expect(filesOf(again)).toEqual(filesOf(folder))
    read.freeze('uniform')
    await read.saveLora(lora)
    expect(readFields(lora).target_modules).toBe(targets)
    expect([...(await LoraModel.fromPretrained(lora)).layers.keys()].sort()).toEqual([...order].sort())
  })

  it('is refused where PEFT shortens its targets to other ones, except in the compact form', async () => {
    const layers = layersOf(12, 'attn.q_proj', 'attn.o_proj')
    const names = namesOf(layers)
    const config = { r: 2, numB: 2, targetModules: names }
    const model = randomModel(layers, config)
    const folder = join(newFolder(), 'none')
    for (const save of [() => model.savePretrained(folder), () => model.pretrainedFiles()]) {
      const shared = 'then shares other parameters with "model.layers.1.attn.q_proj"'
      await expectRefused('ERR_LILY_CHECKPOINT', shared, save)
    }
    expect(existsSync(folder)).toBe(false)
    await model.savePretrained(folder, { format: 'compact' })
    // Also once it has been read from the compact form, which does not contain the other layers of the base model.
    for (const _ of [1, 2]) {
      const read = await LilyModel.fromPretrained(folder)
      expect(valuesOf(read)).toEqual(valuesOf(model))
      await expectRefused('ERR_LILY_CHECKPOINT', "or save in the format 'compact'", () => read.savePretrained(folder))
      await read.savePretrained(folder, { format: 'compact' })
    }

    // PEFT compares the index of a layer that is no whole name any more.
    const lora = { targetModules: names, layersToTransform: [0] }
    await expectRefused('ERR_LILY_CHECKPOINT', 'then does not adapt "model.layers.1.attn.q_proj"', () =>
      LoraModel.create({ layers, config: lora }).pretrainedFiles(),
    )
    await expectRefused('ERR_LILY_CHECKPOINT', 'then does not adapt "model.layers.0.attn.q_proj"', () =>
      LoraModel.create({ layers, config: { ...lora, layersToTransform: [99] } }).pretrainedFiles(),
    )
    await LoraModel.create({ layers, config: { targetModules: names } }).pretrainedFiles()

    model.freeze('uniform')
    await model.loraFiles()
    const indexed = randomModel(layers, { ...config, layersToTransform: [0] })
    indexed.freeze('uniform')
    await indexed.savePretrained(folder, { format: 'compact' })
    for (const each of [indexed, await LilyModel.fromPretrained(folder)]) {
      await expectRefused('ERR_LILY_CHECKPOINT', "suffixes such as 'q_proj'", () => each.loraFiles())
    }
  })

  // PEFT compares ends of names as text, in the order of a Python set: it gives such a layer either target.
  it.each<[why: string, names: string[], targets: string[] | undefined]>([
    ['a name and its end', ['a.0.o_proj', 'a.1.o_proj'], ['o_proj', '1.o_proj']],
    ['ends without a dot', ['a.v', 'a.kv'], ['v', 'kv']],
    ['last components', ['a.v', 'a.kv'], undefined],
    ['a long list', ['a.v', 'a.kv', ...under('a')], ['v', 'kv', ...PARTS]],
    ['an end that is no target of the layer', ['a.v', 'a.b.v', 'a.bv'], ['v', 'bv']],
  ])('is refused for targets of which PEFT may take either: %s', async (_, names, targetModules) => {
    const layers = names.map((name) => ({ name, inFeatures: 4, outFeatures: 3 }))
    const model = randomModel(layers, { r: 2, numB: 2, ...(targetModules && { targetModules }) })
    await expectRefused('ERR_LILY_CHECKPOINT', 'which end the same names', () => model.pretrainedFiles())
    const compact = await LilyModel.fromPretrained(await model.pretrainedFiles({ format: 'compact' }))
    expect(valuesOf(compact)).toEqual(valuesOf(model))
    await expectRefused('ERR_LILY_CHECKPOINT', 'which end the same names', () => compact.pretrainedFiles())
    // LoRA shares nothing.
    model.freeze('uniform')
    await model.loraFiles()
  })

  it.each<[why: string, sizes: Record<string, number>, targets: string[] | string]>([
    ['of layers that all end with both', { 'a.0.q_proj': 3, 'a.1.q_proj': 3 }, ['q_proj', 'proj']],
    ['of layers of other sizes', { 'a.o_proj': 3, 'a.1.o_proj': 4 }, ['o_proj', '1.o_proj']],
    ['that are a pattern', { 'a.kv': 3, 'a.v': 3 }, '.*v'],
    ['that end no other one', { 'a.q_proj': 3, 'a.v_proj': 3 }, ['q_proj', 'v_proj']],
  ])('is saved for PEFT with targets %s', async (_, sizes, targetModules) => {
    const layers = Object.entries(sizes).map(([name, outFeatures]) => ({ name, inFeatures: 4, outFeatures }))
    const model = randomModel(layers, { r: 2, numB: 2, targetModules })
    expect(valuesOf(await LilyModel.fromPretrained(await model.pretrainedFiles()))).toEqual(valuesOf(model))
  })

  it('is refused without the control characters of a file', async () => {
    const layers = layersOf(12, 'attn.q_proj', 'attn.o_proj')
    const folder = newFolder()
    await randomModel(layers, { r: 2, numB: 2, targetModules: namesOf(layers) }).savePretrained(folder, {
      format: 'compact',
    })
    const path = join(folder, COMPACT)
    const text = readFileSync(path, 'latin1')
    writeFileSync(path, text.replace('PEFT shortens', String.raw`\u001b[0;31m `), 'latin1')
    const read = await LilyModel.fromPretrained(folder)
    await expectRefused('ERR_LILY_CHECKPOINT', ':  [0;31m  lists of 20', () => read.pretrainedFiles())
  })

  it.each<[why: string, layers: LayerShape[], targets: string[]]>([
    ['fewer than 20', layersOf(10, 'q_proj', 'o_proj'), namesOf(layersOf(10, 'q_proj', 'o_proj')).slice(1)],
    ['ends of other layers', layersOf(12, 'q_proj', 'o_proj'), namesOf(layersOf(10, 'q_proj', 'o_proj'))],
    ['single components', layersOf(2, ...PARTS), PARTS],
    ['ends of modules between', layersOf(2, ...under('x', 'y', 'z')), under('x', 'y')],
  ])('is saved with targets that PEFT does not shorten to other ones: %s', async (_, layers, targetModules) => {
    const folder = newFolder()
    await randomModel(layers, { r: 2, numB: 2, targetModules }).savePretrained(folder)
    expect(readFields(folder).target_modules).toEqual([...targetModules].sort())
    expect((await LilyModel.fromPretrained(folder)).layers.size).toBeGreaterThan(0)
  })

  it('replaces the tensors of an older PEFT, which PEFT would load beside the compact form', async () => {
    const folder = newFolder()
    const model = randomModel(layersOf(2, 'q_proj'), { r: 2, numB: 2 })
    for (const format of ['compact', 'peft'] as const) {
      writeFileSync(join(folder, 'adapter_model.bin'), 'old')
      await model.savePretrained(folder, { format })
      expect(readdirSync(folder).sort()).toEqual([format === 'peft' ? TENSORS : COMPACT, CONFIG].sort())
    }
  })

  it('writes shared parameters once in the compact form', async () => {
    const folder = newFolder()
    const model = randomModel(layersOf(8, 'q_proj'), { r: 4, strideA: 4, numB: 4 })
    await model.savePretrained(folder, { format: 'compact' })
    const numbers = 2 * 4 * 12 + 8 * 4 * 4 + 4 * 4 * 10
    const header = statSync(join(folder, COMPACT)).size - 4 * numbers
    expect(header).toBeGreaterThan(0)
    expect(readFileSync(join(folder, COMPACT)).readBigUInt64LE()).toBe(BigInt(header - 8))
  })
})

describe('loading in another type', () => {
  const types = ['float32', 'bfloat16', 'float16'] as const
  it.each(types.flatMap((from) => types.map((to) => [from, to] as const)))('%s as %s is a cast', async (from, to) => {
    const layers = layersOf(2, 'q_proj')
    const config = { r: 3, strideA: 2, numB: 2 }
    const lily = randomModel(layers, config, from)
    lily.freeze({ [layers[1].name]: [0.25, 0.75] })
    const lora = LoraModel.create({ layers, config: { r: 3, initLoraWeights: false }, dtype: from, seed: 2 })
    for (const format of ['peft', 'compact'] as const) {
      const folder = newFolder()
      await lily.savePretrained(folder, { format, modulesToSave: { head: { weight: tensor([1, 2], [1, 2]) } } })
      const loaded = await LilyModel.fromPretrained(folder, { dtype: to })
      expectCast(loaded, lily, to)
      expect(loaded.layers.get(layers[1].name)?.frozenWeights).toEqual(Float32Array.of(0.25, 0.75))
      expect(loaded.modulesToSave.get('head')?.get('weight')?.dtype).toBe('float32')
      await loaded.savePretrained(folder, { format })
      const again = await LilyModel.fromPretrained(folder)
      expectCast(again, lily, to)
      expect(again.layers.get(layers[1].name)?.isFrozen).toBe(true)
    }
    expectCast(await LoraModel.fromPretrained(await lora.pretrainedFiles(), { dtype: to }), lora, to)
  })

  // PEFT loads all parameters as float32. Those of layers that a 16-bit base model keeps in float32 may be saved in that type.
  it.each([
    ['Lily', LilyModel, GOLDEN, /_B\.weight$/],
    ['LoRA', LoraModel, LORA, /\.1\..*_B\.weight$/],
  ] as const)('takes the parameters of a file with several types: %s', async (_, Model, folder, inBFloat16) => {
    const mixed = await withTensors((tensors) => {
      for (const [name, { shape, bytes }] of tensors) {
        if (!inBFloat16.test(name)) continue
        // The upper half of each number, which is little-endian.
        tensors.set(
          name,
          bytesOf(
            'BF16',
            shape,
            (bytes() as Uint8Array).filter((_, i) => i % 4 > 1),
          ),
        )
      }
    }, folder)
    await expectRefused('ERR_LILY_CHECKPOINT', 'got BF16; pass the type to load all of them in as { dtype }', () =>
      Model.fromPretrained(mixed),
    )
    const stored = readSafetensors(join(mixed, TENSORS))
    const loaded = await Model.fromPretrained(mixed, { dtype: 'float32' })
    for (const [name, { value }] of loaded.parameters()) {
      expect(value.dtype).toBe('float32')
      expectSameBits(name, value.data, stored.get(`base_model.model.${name}`)!.data)
    }
  })

  it('refuses one whose range does not hold the numbers, and what is no type', async () => {
    const model = randomModel(layersOf(1, 'q_proj'), { r: 2, numB: 2 })
    const [[name, { value }]] = model.parameters()
    value.data[3] = 65520 // rounds to infinity in float16
    const files = await model.pretrainedFiles()
    await expectRefused(
      'ERR_LILY_ARGUMENT',
      `dtype: expected a type whose range holds the numbers of "${name}" in ${TENSORS}, got 'float16'; leave it out`,
      () => LilyModel.fromPretrained(files, { dtype: 'float16' }),
    )
    expect((await LilyModel.fromPretrained(files, { dtype: 'bfloat16' })).dtype).toBe('bfloat16')
    for (const dtype of ['float64', 'int8', 'uint8', 16])
      await expectRefused('ERR_LILY_DTYPE', 'dtype: expected', () =>
        LilyModel.fromPretrained(files, { dtype: dtype as never }),
      )
  })
})

/** Checks that a model has the parameters of another one in the type `dtype`. */
function expectCast(actual: AdapterModel, expected: AdapterModel, dtype: Float): void {
  expect(actual.dtype).toBe(dtype)
  const parameters = actual.parameters()
  expect([...parameters.keys()]).toEqual([...expected.parameters().keys()])
  for (const [name, { value }] of expected.parameters())
    expectSameBits(name, parameters.get(name)!.value.data, cast(value, dtype).data)
}

const isWindows = process.platform === 'win32'
/** Windows takes such a name for one that cannot exist. */
const NAME_TOO_LONG = isWindows ? 'ENOENT' : 'ENAMETOOLONG'

describe('saving', () => {
  it('keeps the old files until the new ones are written, and if it fails', async () => {
    const folder = goldenCopy()
    const before = filesOf(folder)
    const model = await LilyModel.fromPretrained(folder)
    const [first] = model.parameters().values()
    ;(first.value.data as Float32Array)[0] = 42
    // The state after a crash while the last parameter is read.
    const last = [...model.parameters().values()].at(-1)!
    let during: Record<string, string> = {}
    const toHost = last.value.toHost.bind(last.value)
    last.value.toHost = () => {
      during = filesOf(folder)
      return toHost()
    }
    await model.savePretrained(folder)
    expect(during).toMatchObject(before)
    // One for the tensors, one for the configuration.
    expect(Object.keys(during).filter((name) => name.endsWith('.tmp'))).toHaveLength(2)
    expect(Object.keys(filesOf(folder))).toEqual(Object.keys(before))
    expect(filesOf(folder)).not.toEqual(before)

    const after = filesOf(folder)
    last.value.dispose()
    await expectRefused('ERR_LILY_DISPOSED', 'disposed', () => model.savePretrained(folder))
    expect(filesOf(folder)).toEqual(after)
  })

  /** Bits that are no finite number, by type. */
  const notFinite = [
    ['float32', 0x7fc00000],
    ['float32', 0xff800000],
    ['bfloat16', 0x7f80],
    ['float16', 0xfe00],
  ] as const
  it.each(notFinite)('refuses parameters that a load refuses: %s %i', async (dtype, bits) => {
    const layers = layersOf(3, 'q_proj')
    for (const Model of [LilyModel, LoraModel]) {
      const model = Model.create({ layers, config: { r: 4 }, dtype, seed: 1 })
      for (const format of Model === LilyModel ? (['peft', 'compact'] as const) : (['peft'] as const)) {
        const options: SaveOptions = { format }
        const save = (folder: string) => (model as LilyModel).savePretrained(folder, options)
        const folder = newFolder()
        await save(folder)
        const before = filesOf(folder)
        for (const [name, { value }] of model.parameters()) {
          const data = value.data as Float32Array | Uint16Array
          const at = value.shape[1] + 2
          const buffer = data.buffer as ArrayBuffer
          const all = new (dtype === 'float32' ? Uint32Array : Uint16Array)(buffer, data.byteOffset, data.length)
          const old = all[at]
          all[at] = bits
          const message = `tensor "base_model.model.${name}": expected finite numbers, got an infinity or NaN at [1, 2]`
          const error = await expectRefused('ERR_LILY_CHECKPOINT', message, () => save(folder))
          expect(error.message).toContain(folder)
          await expectRefused('ERR_LILY_CHECKPOINT', message, () => (model as LilyModel).pretrainedFiles(options))
          expect(filesOf(folder)).toEqual(before)
          all[at] = old
        }
        await save(folder)
        expect(filesOf(folder)).toEqual(before)
      }
    }
  })

  it('refuses LoRA matrices that overflow', async () => {
    const model = LilyModel.create({ layers: layersOf(1, 'q_proj'), config: { r: 4, numB: 2, initWeights: false } })
    const folder = newFolder()
    model.freeze('uniform')
    await model.saveLora(folder)
    const before = filesOf(folder)
    const name = 'model.layers.0.q_proj'
    ;(model.parameters().get(`${name}.lily_B.weight`)!.value.data as Float32Array).fill(3e38)
    model.freeze({ [name]: [1, 1] })
    const message = `tensor "base_model.model.${name}.lora_B.weight": expected finite numbers`
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => model.saveLora(folder))
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => model.loraFiles())
    expect(filesOf(folder)).toEqual(before)
  })

  it('rejects unknown options', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const folder = join(newFolder(), 'none')
    await expectRefused('ERR_LILY_ARGUMENT', 'format', () => model.savePretrained(folder, { format: 'lora' as 'peft' }))
    await expectRefused('ERR_LILY_ARGUMENT', 'fromat', () => model.savePretrained(folder, { fromat: 'peft' } as object))
    expect(existsSync(folder)).toBe(false)
  })

  // Node's mkdir with `recursive` does not return there.
  it('reports a folder that the file system refuses to make', async ({ skip }) => {
    skip(!existsSync('/proc/self'), 'there is no /proc, in which no folder can be made')
    const model = LilyModel.create({ layers: [{ name: 'q', inFeatures: 2, outFeatures: 2 }], config: { r: 1 } })
    await expectRefused('ERR_LILY_CHECKPOINT', 'cannot be written (ENOENT', () =>
      model.savePretrained('/proc/none/adapter'),
    )
  })

  it('reports the error of the file system, with the path and a remedy', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const refused = (path: string, message: string) =>
      expectRefused('ERR_LILY_CHECKPOINT', `${path}: ${message}`, () => model.savePretrained(path))
    const file = join(withFields({}), CONFIG)
    await refused(file, 'expected a folder or nothing, got a file; pass the path of a folder')
    if (!isWindows) await refused(join(file, 'below'), 'cannot be written (ENOTDIR: not a directory')
    const folder = newFolder()
    await refused(join(folder, 'n'.repeat(256)), `cannot be written (${NAME_TOO_LONG}`)
    symlinkSync(join(folder, 'none'), join(folder, 'link'))
    const message = 'expected a folder or nothing, got a link to one that does not exist; create that folder'
    await refused(join(folder, 'link'), message)
    await expectRefused('ERR_LILY_CHECKPOINT', `${join(folder, 'link')}: ${message}`, () =>
      model.savePretrained(join(folder, 'link', 'below')),
    )
    expect(readdirSync(folder)).toEqual(['link'])
  })

  it.each([232, 233, 255, 256])('names of %s bytes', async (length) => {
    const path = join(newFolder(), 'n'.repeat(length))
    const save = () => writeSafetensors(path, { weight: tensor([1], [1]) })
    if (length <= 232) {
      await save()
      expect(readSafetensors(path).size).toBe(1)
      return
    }
    const { message } = await expectRefused('ERR_LILY_CHECKPOINT', `${path}: cannot be written (${NAME_TOO_LONG}`, save)
    if (!isWindows) expect(message).toContain('); shorten the name; the name of a file to save may have 232 bytes')
  })

  it('says what to do where a folder cannot be listed', () => {
    // The tests may run as root, to whom nothing is forbidden.
    const cause = Object.assign(new Error("EACCES: permission denied, open '/adapter'"), { code: 'EACCES' })
    expect(fileSystemError('/adapter', 'cannot be written', cause)).toMatchObject({
      code: 'ERR_LILY_CHECKPOINT',
      message:
        "/adapter: cannot be written (EACCES: permission denied, open '/adapter'); allow this process to list the " +
        'folder and to read and write its files',
    })
  })
})

describe('a relative path', () => {
  /** Starts a call in a working directory, which is another one as soon as it has returned. */
  function startIn<T>(folder: string, start: () => Promise<T>): Promise<T> {
    const before = process.cwd()
    try {
      process.chdir(folder)
      return start()
    } finally {
      process.chdir(before)
    }
  }

  it('counts from the working directory in which a load is called', async () => {
    const source = goldenCopy()
    const load = startIn(dirname(source), () => LilyModel.fromPretrained(basename(source)))
    expect(valuesOf(await load)).toEqual(valuesOf(await LilyModel.fromPretrained(source)))
    const file = await startIn(source, () => SafetensorsFile.open(TENSORS))
    expect(file.path).toBe(join(source, TENSORS))
    await file.close()
  })

  it('counts from the working directory in which a save is called', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const [folder, other] = [newFolder(), withFields({}, LORA)]
    await startIn(folder, () => model.savePretrained('adapter'))
    expect(filesOf(join(folder, 'adapter'))).toEqual(filesOf(GOLDEN))

    // The folder that is checked is the one that is written.
    const save = startIn(dirname(other), () => model.savePretrained(basename(other)))
    await expectRefused(
      'ERR_LILY_CHECKPOINT',
      `${join(other, CONFIG)}: expected no adapter of another method`,
      () => save,
    )

    model.freeze('uniform')
    await startIn(folder, () => model.saveLora('lora'))
    expect((await LoraModel.fromPretrained(join(folder, 'lora'))).layers.size).toBe(model.layers.size)
  })
})
