/** What travels with an adapter beside its parameters: frozen weights, and modules such as a classifier's head. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { LilyModel, LoraModel, type ModulesToSave, SafetensorsFile, tensor } from '../../lib/index.js'
import {
  bytesOf,
  CONFIG,
  GOLDEN,
  goldenCopy,
  newFolder,
  readFields,
  TENSORS,
  withTensors,
} from '../support/checkpoint.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const FROZEN = 'adapter_frozen.json'
const Q0 = 'layers.0.self_attn.q_proj'
const V1 = 'layers.1.self_attn.v_proj'
/** No multiple of a power of two: its float32 value is another number than the literal. */
const WEIGHTS = { [Q0]: [0.1, 0.7, -0.3], [V1]: [1 / 3, 1 / 3, 1 / 3] }

const frozenOf = (model: LilyModel) =>
  Object.fromEntries(
    [...model.layers.values()].flatMap(({ name, frozenWeights }) => (frozenWeights ? [[name, frozenWeights]] : [])),
  )
const EXPECTED = Object.fromEntries(Object.entries(WEIGHTS).map(([name, row]) => [name, Float32Array.from(row)]))

describe('weights that layers are frozen with', () => {
  it.each(['peft', 'compact'] as const)('come back to the bit, %s', async (format) => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze(WEIGHTS)
    const folder = newFolder()
    await model.savePretrained(folder, { format })
    expect(readdirSync(folder).includes(FROZEN)).toBe(format === 'peft')
    const read = await LilyModel.fromPretrained(folder)
    expect(frozenOf(read)).toEqual(EXPECTED)
    expect([...read.parameters().keys()], 'without the routers of those layers').toEqual([...model.parameters().keys()])

    // By way of the other format, and away once they are gone.
    const again = newFolder()
    await read.savePretrained(again, { format: format === 'peft' ? 'compact' : 'peft' })
    expect(frozenOf(await LilyModel.fromPretrained(again))).toEqual(EXPECTED)
    read.unfreeze()
    await read.savePretrained(again, { format: 'peft' })
    expect(readdirSync(again).sort()).toEqual([CONFIG, TENSORS].sort())
    for (const name of [CONFIG, TENSORS]) {
      expect(readFileSync(join(again, name)).equals(readFileSync(join(GOLDEN, name))), name).toBe(true)
    }
    expect(frozenOf(await LilyModel.fromPretrained(again))).toEqual({})
  })

  it('have the SHA-256 of the parameters beside them', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze(WEIGHTS)
    const folder = newFolder()
    await model.savePretrained(folder)
    const sha256 = (content: string | NodeJS.ArrayBufferView) => createHash('sha256').update(content).digest('hex')
    const lines = Array.from(readSafetensors(join(GOLDEN, TENSORS)), ([key, { data }]) => `${key} ${sha256(data)}\n`)
    const { parameters_sha256: digest } = JSON.parse(readFileSync(join(folder, FROZEN), 'utf8')) as Record<
      string,
      unknown
    >
    expect(digest).toBe(sha256(lines.sort().join('')))
  })

  it("leave PEFT's files as they were", async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze('uniform')
    const folder = newFolder()
    await model.savePretrained(folder)
    for (const name of [CONFIG, TENSORS]) {
      expect(readFileSync(join(folder, name)).equals(readFileSync(join(GOLDEN, name))), name).toBe(true)
    }
  })

  it('are refused beside the parameters of another save', async () => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze(WEIGHTS)
    const folder = newFolder()
    await model.savePretrained(folder)
    // PEFT saves the folder like this: it does not know the file.
    const other = await withTensors((tensors) => {
      for (const l of [0, 1, 2, 3]) {
        const key = `base_model.model.layers.${l}.self_attn.q_proj.lily_B.weight`
        tensors.set(key, bytesOf('F32', [24, 32], new Float32Array(24 * 32)))
      }
    })
    writeFileSync(join(folder, TENSORS), readFileSync(join(other, TENSORS)))
    await expectRefused('ERR_LILY_CHECKPOINT', `remove ${FROZEN}`, () => LilyModel.fromPretrained(folder))
  })

  it.each([
    ['no JSON', '{'],
    ['no object', '[]'],
    ['nothing', '{}'],
  ])('in a file with %s are refused', async (_, text) => {
    const folder = goldenCopy()
    writeFileSync(join(folder, FROZEN), text)
    await expectRefused('ERR_LILY_CHECKPOINT', FROZEN, () => LilyModel.fromPretrained(folder))
  })

  it.each([
    ['of a layer that is not there', { 'layers.9.x': [1, 0, 0] }, 'layers.9.x'],
    ['of too few numbers', { [Q0]: [1, 0] }, 'expected 3 finite weights'],
    ['of text', { [Q0]: ['1', '0', '0'] }, 'expected 3 finite weights'],
    ['beyond float32', { [Q0]: [1e39, 0, 0] }, 'expected 3 finite weights'],
  ])('%s are refused', async (_, weights, message) => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    model.freeze(WEIGHTS)
    const folder = newFolder()
    await model.savePretrained(folder)
    const fields = JSON.parse(readFileSync(join(folder, FROZEN), 'utf8')) as object
    writeFileSync(join(folder, FROZEN), JSON.stringify({ ...fields, frozen_weights: weights }))
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => LilyModel.fromPretrained(folder))
  })
})

describe('modules to save', () => {
  const weight = { data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [2, 3], dtype: 'float32' as const }
  const bias = tensor(Uint16Array.of(0x3f80, 0x4000), [2], 'bfloat16')
  const disposed = tensor([1], [1])
  disposed.dispose()

  it.each(['peft', 'compact'] as const)("are PEFT's keys and field, and come back, %s", async (format) => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const folder = newFolder()
    await model.savePretrained(folder, { format, modulesToSave: { classifier: { weight, bias } } })
    expect(readFields(folder)).toEqual({ ...readFields(GOLDEN), modules_to_save: ['classifier'] })
    const [name] = readdirSync(folder).filter((each) => each.endsWith('.safetensors'))
    const file = await SafetensorsFile.open(join(folder, name))
    expect(file.tensors.get('base_model.model.classifier.weight')).toMatchObject({ dtype: 'F32', shape: [2, 3] })
    expect(file.tensors.get('base_model.model.classifier.bias')).toMatchObject({ dtype: 'BF16', shape: [2] })
    await file.close()

    const read = await LilyModel.fromPretrained(folder)
    const expected = new Map([
      [
        'classifier',
        new Map<string, object>([
          ['weight', weight],
          ['bias', { data: Uint16Array.of(0x3f80, 0x4000), shape: [2], dtype: 'bfloat16' }],
        ]),
      ],
    ])
    expect(read.modulesToSave).toEqual(expected)
    // They stay, unless others take their place.
    const again = newFolder()
    await read.savePretrained(again, { format })
    expect((await LilyModel.fromPretrained(again)).modulesToSave).toEqual(expected)
    const modulesToSave: ModulesToSave = new Map([
      ['classifier', new Map([['weight', weight]])],
      ['model.score', new Map([['0.weight', weight]])],
    ])
    await read.savePretrained(again, { format, modulesToSave })
    expect(readFields(again).modules_to_save).toEqual(['classifier', 'model.score'])
    expect((await LilyModel.fromPretrained(again)).modulesToSave).toEqual(
      new Map([
        ['classifier', new Map([['weight', weight]])],
        ['model.score', new Map([['0.weight', weight]])],
      ]),
    )
  })

  it('are those whose names end with a listed text, as in PEFT', async () => {
    const keys = ['classifier.weight', 'pre_classifier.weight', 'model.score.weight', 'embeddings.weight']
    const folder = await withTensors((tensors) => {
      for (const key of keys) tensors.set(`base_model.model.${key}`, bytesOf('F32', [2, 3], weight.data))
      // It travels too, but this package has no numbers of its type.
      tensors.set('base_model.model.classifier.steps', bytesOf('I64', [1], BigInt64Array.of(5n)))
    })
    writeFileSync(
      join(folder, CONFIG),
      JSON.stringify({ ...readFields(GOLDEN), modules_to_save: ['classifier', 'score'] }),
    )
    const model = await LilyModel.fromPretrained(folder)
    const saved = new Map([['weight', weight]])
    expect(model.modulesToSave).toEqual(
      new Map(['classifier', 'pre_classifier', 'model.score'].map((module) => [module, saved])),
    )
    await model.savePretrained(folder, { modulesToSave: { pre_classifier: { weight } } })
    expect(readFields(folder).modules_to_save).toEqual(['classifier', 'score'])
    model.freeze('uniform')
    const lora = newFolder()
    await model.saveLora(lora)
    expect((await LoraModel.fromPretrained(lora)).modulesToSave).toEqual(model.modulesToSave)
  })

  it('keep their tensors of types that no caller can give, which PEFT requires', async () => {
    const counter = 'base_model.model.head.norm.num_batches_tracked'
    const folder = await withTensors((tensors) => {
      tensors.set('base_model.model.head.norm.weight', bytesOf('F32', [2, 3], weight.data))
      tensors.set(counter, bytesOf('I64', [], BigInt64Array.of(7n)))
    })
    const listed = { ...readFields(GOLDEN), modules_to_save: ['head'] }
    writeFileSync(join(folder, CONFIG), JSON.stringify(listed))
    const model = await LilyModel.fromPretrained(folder)
    const changed = { ...weight, data: weight.data.map((value) => -value) }
    for (const format of ['compact', 'peft'] as const) {
      await model.savePretrained(folder, { format, modulesToSave: { head: { 'norm.weight': changed } } })
      const [name] = readdirSync(folder).filter((each) => each.endsWith('.safetensors'))
      const file = await SafetensorsFile.open(join(folder, name))
      expect(new BigInt64Array((await file.readBytes(counter)).slice().buffer)).toEqual(BigInt64Array.of(7n))
      await file.close()
      const read = await LilyModel.fromPretrained(folder)
      expect(read.modulesToSave).toEqual(new Map([['head', new Map([['norm.weight', changed]])]]))
    }
  })

  it('of a created model', async () => {
    const layers = [{ name: 'layers.0.q_proj', inFeatures: 6, outFeatures: 5 }]
    const model = LilyModel.create({ layers, config: { r: 2, targetModules: ['q_proj'] } })
    expect(model.modulesToSave).toEqual(new Map())
    const folder = newFolder()
    const scale = { data: Float32Array.of(7), shape: [], dtype: 'float32' as const } // a scalar
    await model.savePretrained(folder, { modulesToSave: { head: { weight, scale } } })
    expect(Object.keys(readFields(folder))).toEqual(Object.keys(readFields(GOLDEN)))
    expect((await LilyModel.fromPretrained(folder)).modulesToSave).toEqual(
      new Map([['head', new Map<string, object>(Object.entries({ weight, scale }))]]),
    )
  })

  it.each<[string, unknown, string, string]>([
    ['an array', [], 'ERR_LILY_ARGUMENT', 'a Map or a plain object'],
    ['a module without a name', { '': { weight } }, 'ERR_LILY_ARGUMENT', 'name of a module'],
    ['a module of Lily', { 'q_proj.lily_A': { weight } }, 'ERR_LILY_ARGUMENT', 'name of a module'],
    ['a tensor without a name', { head: { '': weight } }, 'ERR_LILY_ARGUMENT', 'name of a tensor'],
    ['a tensor of Lily', { head: { 'lily_A.weight': weight } }, 'ERR_LILY_ARGUMENT', 'name of a tensor'],
    ['a tensor twice', { head: { 'a.b': weight }, 'head.a': { b: weight } }, 'ERR_LILY_ARGUMENT', 'each tensor once'],
    ['a tensor for a module', { head: tensor([1], [1]) }, 'ERR_LILY_ARGUMENT', '["head"]: expected a Map or a plain'],
    ['a number', { head: { weight: 3 } }, 'ERR_LILY_ARGUMENT', 'modulesToSave.head.weight: expected a tensor'],
    ['int32', { head: { weight: tensor(Int32Array.of(1), [1]) } }, 'ERR_LILY_DTYPE', 'head.weight'],
    [
      'a tensor that is disposed of',
      { head: { weight: disposed } },
      'ERR_LILY_DISPOSED',
      'head.weight: this tensor is',
    ],
  ])('%s is refused before anything is written', async (_, modulesToSave, code, message) => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const folder = join(newFolder(), 'none')
    await expectRefused(code, message, () =>
      model.savePretrained(folder, { modulesToSave: modulesToSave as ModulesToSave }),
    )
    expect(readdirSync(join(folder, '..'))).toEqual([])
  })
})
