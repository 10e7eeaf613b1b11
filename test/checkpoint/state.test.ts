/**
 * The state of an optimiser as a file; test/optimiser/adamw.test.ts continues a training from one.
 *
 * @project cpu wasm
 */
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { replaceWithTensors } from '../../lib/checkpoint/safetensors-write.js'
import {
  AdamW,
  type AdamWState,
  type AdapterModelClass,
  cast,
  LilyModel,
  LoraModel,
  readPretrainedState,
  readState,
  type SaveOptions,
  saveState,
  stateFile,
  type Tensor,
  tensor,
  type TensorLike,
  writeSafetensors,
} from '../../lib/index.js'
import { AdapterOptimizer } from '../../lib/tfjs/index.js'
import { bytesOf, contentsOf, newFolder, TENSORS } from '../support/checkpoint.js'
import { expectSameBits } from '../support/compare.js'
import { expectRefused } from '../refusals/refused.js'
import { readSafetensors } from '../support/safetensors.js'

const numbers = (length: number, from: number) => Float32Array.from({ length }, (_, i) => from + i / 7)

/** A state with names that are no identifiers, a size of 0 and numbers that are not finite, in every form of a tensor. */
function newState(): AdamWState<TensorLike> {
  const odd = numbers(6, -1)
  odd.set([NaN, Infinity, -0])
  return {
    step: 2 ** 40,
    parameters: {
      'layers.0.q.lily_A.weight': { expAvg: tensor(odd, [2, 3]), expAvgSq: tensor(numbers(6, 1), [2, 3]) },
      ü: {
        expAvg: { data: numbers(8, 3), shape: [2, 2], strides: [4, 1], byteOffset: 4 },
        expAvgSq: { data: numbers(4, 4), shape: [2, 2] },
      },
      empty: { expAvg: tensor([], [0, 2]), expAvgSq: tensor([], [0, 2]) },
    },
  }
}

describe('a state that is saved', () => {
  it('goes with the order of the layers, which PEFT does not save', async () => {
    const names = ['encoder.layers.0.q', 'decoder.layers.0.q']
    const layers = names.map((name) => ({ name, inFeatures: 4, outFeatures: 3 }))
    const model = LilyModel.create({ layers, config: { r: 2, numB: 2 } })
    const state = new AdamW(model.parameters()).state()
    const files = await model.pretrainedFiles()
    const advice =
      "the parameter 'decoder.layers.0.q.lily_B.weight', got none; load the state of the same model, with its layers in"
    const sorted = new AdamW((await LilyModel.fromPretrained(files)).parameters())
    await expectRefused('ERR_LILY_ARGUMENT', advice, () => sorted.load(state))
    new AdamW((await LilyModel.fromPretrained(files, { layers: names })).parameters()).load(state)
  })

  it('is read bit for bit, and the file has the documented names', async () => {
    const path = join(newFolder(), 'made', 'as needed', 'state.safetensors')
    const { step, parameters } = newState()
    await saveState(path, { step, parameters })
    const read = await readState(path)
    expect(read.step).toBe(step)
    expect(Object.keys(read.parameters).sort()).toEqual(Object.keys(parameters).sort())
    const { 'layers.0.q.lily_A.weight': odd, ü: pitched, empty } = read.parameters
    expectSameBits('expAvg', odd.expAvg.data, (parameters['layers.0.q.lily_A.weight'].expAvg as Tensor).data)
    expect(pitched.expAvg).toEqual({
      dtype: 'float32',
      shape: [2, 2],
      data: Float32Array.from([1, 2, 5, 6], (i) => 3 + i / 7),
    })
    expect(empty.expAvgSq).toMatchObject({ shape: [0, 2] })
    const moments = Object.keys(parameters).flatMap((name) => [`${name}.expAvg`, `${name}.expAvgSq`])
    expect([...readSafetensors(path).keys()].sort()).toEqual(moments.sort())
  })

  it('is the same as a file and as bytes, where there is no file system', async () => {
    const path = join(newFolder(), 'state.safetensors')
    await saveState(path, newState())
    const file = await stateFile(newState())
    expect(file.name).toBe('optimiser.safetensors')
    const bytes = new Uint8Array(await file.arrayBuffer())
    expect(bytes).toEqual(new Uint8Array(readFileSync(path)))
    for (const form of [file, new Blob([bytes]), bytes, bytes.buffer]) {
      expect(await readState(form)).toEqual(await readState(path))
    }
  })

  it('is a file of moments in memory that can be resized, which a Blob of a browser refuses', async () => {
    const original = Blob
    globalThis.Blob = class extends Blob {
      constructor(parts: Uint8Array[]) {
        for (const { buffer } of parts) {
          if (!(buffer as { readonly resizable?: boolean }).resizable) continue
          throw new TypeError('The provided ArrayBufferView value must not be resizable.')
        }
        super(parts)
      }
    }
    onTestFinished(() => {
      globalThis.Blob = original
    })
    const Resizable = ArrayBuffer as new (length: number, options: { maxByteLength: number }) => ArrayBuffer
    const data = new Float32Array(new Resizable(8, { maxByteLength: 16 }), 0, 2)
    data.set([1, 2])
    const moments = { expAvg: { data, shape: [2] }, expAvgSq: tensor([3, 4], [2]) }
    const { parameters } = await readState(await stateFile({ step: 1, parameters: { p: moments } }))
    expect(parameters.p.expAvg.data).toEqual(Float32Array.of(1, 2))
  })
})

describe('a state that is saved with its adapter', () => {
  const layers = [0, 1].map((l) => ({ name: `layers.${l}.q`, inFeatures: 3, outFeatures: 2 }))
  const STATE = 'optimiser.safetensors'

  /** A model and its optimiser after a number of steps. */
  function trained(steps: number, Model: AdapterModelClass = LilyModel) {
    const model = Model.create({ layers, config: { r: 2 }, seed: 1 })
    const optimiser = new AdamW(model.parameters())
    for (let i = 0; i < steps; i++) {
      for (const { grad } of model.parameters().values()) (grad.data as Float32Array).fill(i + 1)
      optimiser.step()
    }
    return { model, optimiser }
  }

  /** A folder of them. */
  async function saved(steps: number): Promise<string> {
    const folder = newFolder()
    const { model, optimiser } = trained(steps)
    await model.savePretrained(folder, { optimiser })
    return folder
  }

  const refused = async (
    folder: string,
    message = `${STATE}: expected the state that was saved with the parameters`,
  ) => {
    const model = await LilyModel.fromPretrained(folder)
    return expectRefused('ERR_LILY_CHECKPOINT', message, () => readPretrainedState(folder, model))
  }

  it.each<[string, AdapterModelClass, SaveOptions]>([
    ['Lily', LilyModel, {}],
    ['Lily, compact', LilyModel, { format: 'compact' }],
    ['LoRA', LoraModel, {}],
  ])('is read with it, and leaves its files as they are without one: %s', async (_, Model, options) => {
    const folder = newFolder()
    const { model, optimiser } = trained(3, Model)
    await model.savePretrained(folder, options as object)
    const before = new Map(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]))
    await model.savePretrained(folder, { ...(options as object), optimiser })
    expect(readdirSync(folder).sort()).toEqual([...before.keys(), STATE].sort())
    for (const [name, content] of before) expect(readFileSync(join(folder, name)).equals(content), name).toBe(true)

    const files = await model.pretrainedFiles({ ...(options as object), optimiser })
    for (const file of files) {
      expect(new Uint8Array(await file.arrayBuffer())).toEqual(Uint8Array.from(readFileSync(join(folder, file.name))))
    }
    for (const from of [folder, files]) {
      const loaded = await Model.fromPretrained(from)
      const again = new AdamW(loaded.parameters())
      again.load(await readPretrainedState(from, loaded))
      expect(again.stepCount).toBe(3)
      for (const [name, { expAvg, expAvgSq }] of Object.entries(optimiser.state().parameters)) {
        expectSameBits(name, again.state().parameters[name].expAvg.data, expAvg.data)
        expectSameBits(name, again.state().parameters[name].expAvgSq.data, expAvgSq.data)
      }
    }
  })

  it('has the state of dropout, unless the rate is 0; another form of it is refused', async () => {
    const save = async (dropout: number) => {
      const model = LilyModel.create({ layers, config: { r: 2, dropout }, seed: 5 })
      const folder = newFolder()
      await model.savePretrained(folder, { optimiser: new AdamW(model.parameters()) })
      return folder
    }
    expect([...(await contentsOf(join(await save(0), STATE))).tensors.keys()]).not.toContain('dropout_state')
    const folder = await save(0.3)
    const { metadata, tensors } = await contentsOf(join(folder, STATE))
    expect(tensors.get('dropout_state')).toMatchObject({ dtype: 'I32', shape: [4] })
    tensors.set('dropout_state', bytesOf('F32', [4], new Float32Array(4)))
    await replaceWithTensors(join(folder, STATE), tensors, metadata)
    const model = await LilyModel.fromPretrained(folder)
    const before = model.dropoutState.data.slice()
    const message = 'tensor "dropout_state": expected I32 [4], got F32 [4]'
    await expectRefused('ERR_LILY_CHECKPOINT', message, () => readPretrainedState(folder, model))
    expect(model.dropoutState.data).toEqual(before)
  })

  it('is refused beside the adapter of another save', async () => {
    const [folder, other] = [await saved(3), await saved(4)]
    copyFileSync(join(other, STATE), join(folder, STATE))
    await refused(folder)
    // As where another program saves the adapter again, which leaves other files there.
    copyFileSync(join(await saved(3), STATE), join(folder, STATE))
    await readPretrainedState(folder, await LilyModel.fromPretrained(folder))
    copyFileSync(join(other, TENSORS), join(folder, TENSORS))
    await refused(folder)
  })

  it('is refused beside another head', async () => {
    const [folder, other] = [newFolder(), newFolder()]
    const { model } = trained(0)
    const head = { value: tensor([1, 2], [2]), grad: tensor([1, 1], [2]) }
    const optimiser = new AdamW(new Map([['head.bias', head]]))
    const save = (to: string) => model.savePretrained(to, { optimiser, modulesToSave: { head: { bias: head.value } } })
    await save(folder)
    await readPretrainedState(folder, await LilyModel.fromPretrained(folder))
    optimiser.step()
    await save(other)
    copyFileSync(join(other, STATE), join(folder, STATE))
    await refused(folder)
  })

  it('is removed by a save without one', async () => {
    const folder = await saved(3)
    await trained(3).model.savePretrained(folder)
    expect(readdirSync(folder)).not.toContain(STATE)
    await refused(folder, `expected ${STATE} beside the adapter, got none; save it with savePretrained(folder`)
    const files = await trained(3).model.pretrainedFiles()
    const model = await LilyModel.fromPretrained(files)
    await expectRefused('ERR_LILY_CHECKPOINT', `expected ${STATE}`, () => readPretrainedState(files, model))
  })

  it('is refused for a model that has changed since, or has another type', async () => {
    const folder = await saved(3)
    for (const model of [await LilyModel.fromPretrained(folder, { dtype: 'bfloat16' }), trained(4).model]) {
      await expectRefused('ERR_LILY_CHECKPOINT', 'got the state of other parameters', () =>
        readPretrainedState(folder, model),
      )
    }
    await readPretrainedState(folder, trained(3).model)
  })

  it('is not read without the adapter, nor is one that was saved alone read with it', async () => {
    const folder = await saved(3)
    const advice = 'belongs to the adapter that it was saved with; read it with readPretrainedState'
    await expectRefused('ERR_LILY_CHECKPOINT', advice, () => readState(join(folder, STATE)))
    await saveState(join(folder, STATE), trained(3).optimiser.state())
    await refused(folder)
  })

  it('is refused if it does not fit the adapter, and the old files stay', async () => {
    const folder = await saved(3)
    const before = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'latin1'))
    const { model } = trained(4)
    const [narrow, other] = [{ r: 1 }, { r: 2, excludeModules: ['layers.0.q'] }].map(
      (config) => new AdamW(LilyModel.create({ layers, config }).parameters()),
    )
    const disposed = trained(4).optimiser
    disposed.dispose()
    for (const [code, message, optimiser] of [
      ['ERR_LILY_SHAPE', 'optimiser\'s "layers.0.q.lily_A.weight": expected [2, 3], got [1, 3]', narrow],
      [
        'ERR_LILY_ARGUMENT',
        'got one that updates "layers.1.q.lily_B.weight"; pass it in modulesToSave under its name (\'head.weight\' as',
        other,
      ],
      ['ERR_LILY_ARGUMENT', 'optimiser: expected an AdamW, got an object', other.state()],
      ['ERR_LILY_ARGUMENT', '; pass the optimiser itself', other.state()],
      ['ERR_LILY_ARGUMENT', '; pass its adamw', new AdapterOptimizer(model)],
      ['ERR_LILY_DISPOSED', 'this optimiser is disposed of', disposed],
    ] as const) {
      await expectRefused(code, message, () => model.savePretrained(folder, { optimiser } as never))
      await expectRefused(code, message, () => model.pretrainedFiles({ optimiser } as never))
    }
    expect(readdirSync(folder).map((name) => readFileSync(join(folder, name), 'latin1'))).toEqual(before)
  })
})

describe('refused, and the old file stays:', () => {
  const p = { expAvg: tensor([1], [1]), expAvgSq: tensor([2], [1]) }
  const disposed = tensor([1], [1])
  disposed.dispose()
  it.each<[string, string, unknown]>([
    ['ERR_LILY_ARGUMENT', 'state: expected a plain object', undefined],
    ['ERR_LILY_ARGUMENT', 'state.step: expected an integer from 0', { step: '1', parameters: { p } }],
    ['ERR_LILY_ARGUMENT', 'state.parameters: expected a Map or a plain object', { step: 1 }],
    ['ERR_LILY_ARGUMENT', "state.parameters['p']", { step: 1, parameters: { p: null } }],
    ['ERR_LILY_ARGUMENT', 'expAvgSq: is required', { step: 1, parameters: { p: { expAvg: p.expAvg } } }],
    [
      'ERR_LILY_DTYPE',
      "state.parameters['p'].expAvg: expected float32, got bfloat16",
      { step: 1, parameters: { p: { ...p, expAvg: cast(p.expAvg, 'bfloat16') } } },
    ],
    [
      'ERR_LILY_DISPOSED',
      "state.parameters['p'].expAvgSq",
      { step: 1, parameters: { p: { ...p, expAvgSq: disposed } } },
    ],
  ])('%s: %s', async (code, message, state) => {
    const path = join(newFolder(), 'state.safetensors')
    writeFileSync(path, 'old')
    await expectRefused(code, message, () => saveState(path, state as never))
    await expectRefused(code, message, () => stateFile(state as never))
    expect(readFileSync(path, 'utf8')).toBe('old')
  })

  it('a path that is none', async () => {
    await expectRefused('ERR_LILY_ARGUMENT', 'file: expected a path', () => saveState(5 as never, newState()))
    await expectRefused('ERR_LILY_CHECKPOINT', 'cannot be read', () => readState(join(newFolder(), 'none')))
  })
})

describe('a file that is no state is refused with its name:', () => {
  const one = tensor([1], [1])
  it.each<[string, Parameters<typeof writeSafetensors>[1], Record<string, string>]>([
    ["the number of steps in its metadata as 'step', got none", {}, {}],
    ['the number of steps in its metadata as \'step\', got "-1"', {}, { step: '-1' }],
    ['the number of steps', {}, { step: '9007199254740992' }],
    ['tensor "weight": expected <parameter>.expAvg and <parameter>.expAvgSq', { weight: one }, { step: '1' }],
    ['tensor "p.max": expected <parameter>.expAvg', { 'p.max': one }, { step: '1' }],
    ['tensor "expAvg": expected <parameter>.expAvg', { expAvg: one }, { step: '1' }],
    ['expected "p.expAvgSq" beside "p.expAvg", got none', { 'p.expAvg': one }, { step: '1' }],
    [
      'tensor "p.expAvg": expected data type F32, got BF16',
      { 'p.expAvg': cast(one, 'bfloat16'), 'p.expAvgSq': one },
      { step: '1' },
    ],
  ])('%s', async (message, tensors, metadata) => {
    const path = join(newFolder(), 'state.safetensors')
    await writeSafetensors(path, tensors, metadata)
    const error = await expectRefused('ERR_LILY_CHECKPOINT', message, () => readState(path))
    expect(error.message).toContain(path)
  })
})
