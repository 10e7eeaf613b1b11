/** What objects of the package look like in the console of Node.js. */
import { inspect } from 'node:util'
import * as tf from '@tensorflow/tfjs'
import { describe, expect, it } from 'vitest'
import * as lily from '../../lib/index.js'
import { inject } from '../../lib/onnx/index.js'
import { AdaptedDense } from '../../lib/tfjs-layers/index.js'
import { AdapterOptimizer } from '../../lib/tfjs/index.js'
import { expectRefused } from '../refusals/refused.js'
import { baseModel, lora as onnxLora } from '../support/onnx-layers.js'

const { AdamW, analyse, LilyAdapters, LilyModel, LoraModel, SafetensorsFile, tensor } = lily

const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 6, outFeatures: 4 }))
const newLily = () =>
  LilyModel.create({ layers, config: { r: 2, numB: 3, strideA: 2, initWeights: false, scaling: 2 }, seed: 1 })
const newLora = () => LoraModel.create({ layers, config: { r: 2, loraAlpha: 4, targetModules: ['q'] }, seed: 1 })
const newX = () => tensor(new Float32Array(18), [3, 6])

/** A [2, 6] of both layers, a router [3, 2] of each, B [6, 4] of both. */
const LILY_PARAMETERS = 12 + 2 * 6 + 24

describe('a model', () => {
  it('of Lily', () => {
    const model = newLily()
    const end = "r 2, E 3, stride_A 2, routing 'batch' }"
    expect(inspect(model)).toBe(`LilyModel { float32 on cpu:0, 2 layers, ${LILY_PARAMETERS} parameters, ${end}`)
    const layer = model.layer('1.q')
    expect(inspect(layer)).toBe("LilyLayer { '1.q', float32 on cpu:0, d_in 6, d_out 4, r 2, E 3, routing 'batch' }")
    expect(inspect(layer.router)).toMatch(
      /^Parameter \{ '1\.q\.lily_router\.weight' of 1 layer, float32 \[3, 2\] on cpu:0: (-?0\.\d+, ){2}\.\.\. \}$/,
    )
    expect(inspect(layer.a)).toContain("Parameter { '0.q.lily_A.weight' of 2 layers, float32 [2, 6] on cpu:0: ")
    model.freeze('uniform')
    expect(inspect(model)).toContain(`${LILY_PARAMETERS} parameters (36 trainable), `)
    model.merge('1.q', tensor(new Float32Array(24), [4, 6]))
    expect(inspect(layer)).toContain("routing 'fixed', merged }")
    model.dispose()
    expect(inspect(model)).toBe('LilyModel { disposed }')
    expect(inspect(layer)).toContain("LilyLayer { '1.q', disposed, d_in 6")
    expect(inspect(layer.router)).toBe("Parameter { '1.q.lily_router.weight' of 1 layer, disposed }")
  })

  it('of LoRA', () => {
    const model = newLora()
    expect(inspect(model)).toBe('LoraModel { float32 on cpu:0, 2 layers, 40 parameters, r 2, alpha 4 }')
    expect(inspect(model.layers)).toBe(
      'Map(2) {\n' +
        "  '0.q' => LoraLayer { '0.q', float32 on cpu:0, d_in 6, d_out 4, r 2, scaling 2 },\n" +
        "  '1.q' => LoraLayer { '1.q', float32 on cpu:0, d_in 6, d_out 4, r 2, scaling 2 }\n" +
        '}',
    )
    model.dispose()
    expect(inspect(model)).toBe('LoraModel { disposed }')
  })

  it('whose caller has disposed of a parameter, or whose memory was transferred, throws nothing', () => {
    const model = newLora()
    const { a, b } = model.layer('0.q')
    structuredClone(b.value.data.buffer, { transfer: [b.value.data.buffer as ArrayBuffer] })
    expect(inspect(b)).toBe("Parameter { '0.q.lora_B.weight' of 1 layer, float32 [4, 2] on cpu:0 }")
    a.value.dispose()
    expect(inspect(a)).toBe("Parameter { '0.q.lora_A.weight' of 1 layer, disposed }")
    expect(inspect(model)).toContain('LoraModel { disposed, 2 layers')
  })

  it('has no characters of a name that a terminal would execute', () => {
    const name = 'a\u001b[31m\u202eb'
    const model = LoraModel.create({
      layers: [{ name, inFeatures: 2, outFeatures: 2 }],
      config: { r: 1, targetModules: [name] },
    })
    expect(inspect(model.layer(name))).toContain("LoraLayer { 'a\\u001b[31m\\u202eb', float32")
    expect(inspect(model.layer(name).a)).toContain("'a\\u001b[31m\\u202eb.lora_A.weight'")
    const long = LoraModel.create({
      layers: [{ name: 'a'.repeat(1000), inFeatures: 2, outFeatures: 2 }],
      config: { r: 1, targetModules: ['a'.repeat(1000)] },
    })
    expect(inspect([...long.layers.values()][0]).length).toBeLessThan(300)
  })
})

it('several adapters', () => {
  const adapters = new LilyAdapters()
  expect(inspect(adapters)).toBe('LilyAdapters { no adapters }')
  adapters.addAdapter('one', newLily()).addAdapter('two', newLora())
  expect(inspect(adapters)).toBe("LilyAdapters { 'one' (active), 'two' }")
  const layer = adapters.layer('0.q')
  expect(inspect(layer)).toBe("AdaptersLayer { '0.q', d_in 6, d_out 4, 2 adapters }")
  const y = tensor(new Float32Array(12), [3, 4])
  const { saved } = layer.forward({ x: newX(), y }, { rows: ['one', 'two', null] })
  expect(inspect(saved)).toBe("AdaptersSaved { '0.q', 2 adapters }")
  saved.dispose()
  expect(inspect(saved)).toBe('AdaptersSaved { disposed }')
  for (let i = 0; i < 20; i++) adapters.addAdapter(`a${i}`, newLora())
  expect(inspect(adapters)).toMatch(/^LilyAdapters \{ 'one' \(active\), .* 'a5', 14 more \}$/)
})

it('an optimiser and its state', () => {
  const model = newLora()
  const optimiser = new AdamW(model.parameters(), { onNonFinite: 'skip' })
  optimiser.step()
  expect(inspect(optimiser)).toBe('AdamW { 4 parameters on cpu:0, 1 step }')
  ;(model.layer('0.q').a.grad.data as Float32Array)[0] = NaN
  optimiser.step()
  expect(inspect(optimiser)).toBe('AdamW { 4 parameters on cpu:0, 1 step, 1 skipped }')
  const state = optimiser.state()
  expect(inspect(state)).toBe('AdamWState { step 1, moments of 4 parameters }')
  expect(Reflect.ownKeys({ ...state })).toEqual(['step', 'parameters'])
  optimiser.dispose()
  expect(inspect(optimiser)).toBe('AdamW { disposed }')
})

it('a file and a tensor in it', async () => {
  const [file] = await newLora().pretrainedFiles()
  const open = await SafetensorsFile.open(file)
  expect(inspect(open)).toBe(
    `SafetensorsFile { 'adapter_model.safetensors', 4 tensors of F32, ${file.size.toLocaleString('en')} bytes }`,
  )
  const [name] = open.tensors.keys()
  const stored = await open.read(name)
  expect(inspect(stored)).toMatch(/^StoredTensor \{ float32 \[2, 6\]: (-?0\.\d+, ){6}\.\.\. \}$/)
  expect(JSON.parse(JSON.stringify(stored))).toMatchObject({ dtype: 'float32', shape: [2, 6] })
  await open.close()
  expect(inspect(open)).toBe("SafetensorsFile { 'adapter_model.safetensors', closed }")
  const halves = LoraModel.create({ layers, config: { r: 2, targetModules: ['q'] }, dtype: 'bfloat16' })
  const half = await SafetensorsFile.open((await halves.pretrainedFiles())[0])
  expect(inspect(await half.read(name))).toBe('StoredTensor { bfloat16 [2, 6] }')
  const state = await lily.readState(await lily.stateFile(new AdamW(newLora().parameters()).state()))
  expect(inspect(state)).toBe('AdamWState { step 0, moments of 4 parameters }')
})

it('numbers in four digits, as many as fit a line, and counts in groups', () => {
  expect(inspect(tensor([1 / 3, -2e-7 / 3, 1e4 / 3], [3]))).toContain(': 0.3333, -6.667e-8, 3333')
  expect(inspect(tensor([1, 2, 3, 4, 5, 6], [6]))).toMatch(/: 1, 2, 3, 4, 5, 6(?!,)/)
  expect(inspect(tensor([1, 2, 3, 4, 5, 6, 7], [7]))).toContain(': 1, 2, 3, 4, 5, 6, ...')
  const large = LoraModel.create({
    layers: [{ name: 'q', inFeatures: 1000, outFeatures: 234 }],
    config: { r: 1, targetModules: ['q'] },
  })
  expect(inspect(large)).toContain('1,234 parameters')
})

it('results', async () => {
  const model = newLily()
  const samples = { '0.q': [newX()], '1.q': [newX()] }
  const calibration = await model.calibrate(samples)
  expect(inspect(calibration)).toBe('Calibration { 2 layers, relativeError up to 0.0 }')
  expect(inspect(await analyse(model, { samples }))).toMatch(
    new RegExp(
      "^Analysis \\{ r 2, stride_A 2, E 3, routing 'batch'\\n" +
        `  'q': 2 layers, ${LILY_PARAMETERS} parameters, effective rank 1\\.\\d to [12]\\.\\d \\}$`,
    ),
  )
  expect(inspect(await analyse(newLora()))).toBe(
    'LoraAnalysis { r 2, 2 layers, 40 parameters, effective rank 0.0 to 0.0 }',
  )
  model.freeze(calibration.weights)
  expect(inspect(await model.exportLora())).toBe('LoraAdapter { 2 layers, r 2, scaling 2 }')
  const injected = await inject(baseModel(), onnxLora(2))
  expect(inspect(injected)).toMatch(/^InjectedModel \{ [\d,]+ bytes, \d+ inputs \}$/)
})

it('an error, with the properties that it has', async () => {
  const error = await expectRefused('ERR_LILY_ARGUMENT', 'r: expected an integer', () =>
    LoraModel.create({ layers, config: { r: 0 } }),
  )
  expect(Object.keys(error)).toEqual(['code', 'argument'])
  expect(inspect(error)).toMatch(
    /^LilyError: r: expected .*\n[^]*\{\n {2}code: 'ERR_LILY_ARGUMENT',\n {2}argument: 'r'\n\}$/,
  )
})

it('objects of TensorFlow.js', async () => {
  const model = newLora()
  const optimizer = new AdapterOptimizer(model)
  expect(inspect(optimizer)).toBe('AdapterOptimizer { 4 parameters on cpu:0, 0 steps }')
  optimizer.dispose()
  expect(inspect(optimizer)).toBe('AdapterOptimizer { disposed }')
  await tf.setBackend('cpu')
  const dense = tf.layers.dense({ units: 4, inputShape: [6], name: 'hidden' })
  const adapted = new AdaptedDense({ dense, adapter: model.layer('0.q'), name: 'adapted' })
  expect(inspect(adapted)).toBe("AdaptedDense { 'adapted', adapter '0.q' }")
})

it.each(Object.entries(lily).filter(([name, value]) => /^[A-Z]/.test(name) && typeof value === 'function'))(
  'class %s has a short form',
  (name, value) => {
    const form = Symbol.for('nodejs.util.inspect.custom')
    // An error has its stack there, and an abstract class has no objects of its own.
    expect(form in (value as { readonly prototype: object }).prototype).toBe(!/^(LilyError|AdapterModel)$/.test(name))
  },
)
