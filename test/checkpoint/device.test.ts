/**
 * Checkpoints and analysis of a model on the backend under test.
 *
 * @project cpu wasm webgpu cuda
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import {
  analyse,
  LilyModel,
  LoraModel,
  SafetensorsFile,
  type StoredTensor,
  type TensorLike,
  writeSafetensors,
} from '../../lib/index.js'
import { backend } from '../support/backend.js'
import { GOLDEN, newFolder, TENSORS } from '../support/checkpoint.js'
import { deviceArray } from '../support/device-array.js'
import { moved, place } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'

const LORA = fileURLToPath(new URL('../fixtures/lora/patterns', import.meta.url))

it('saves a model from the backend', async () => {
  const folder = newFolder()
  const model = moved(await LilyModel.fromPretrained(GOLDEN))
  await model.savePretrained(folder)
  expect(readFileSync(join(folder, TENSORS)).equals(readFileSync(join(GOLDEN, TENSORS)))).toBe(true)

  model.freeze('uniform')
  await model.saveLora(join(folder, 'lora'))
  const file = await SafetensorsFile.open(join(folder, 'lora', TENSORS))
  expect(file.tensors.size).toBe(2 * 8)
  await file.close()
})

it('saves a LoRA model from the backend', async () => {
  const folder = newFolder()
  await moved(await LoraModel.fromPretrained(LORA)).savePretrained(folder)
  expect(readFileSync(join(folder, TENSORS)).equals(readFileSync(join(LORA, TENSORS)))).toBe(true)
})

it('analyses a model on the backend', async () => {
  const host = await LilyModel.fromPretrained(GOLDEN)
  const model = moved(await LilyModel.fromPretrained(GOLDEN))
  const name = 'layers.2.self_attn.v_proj'
  const values = gaussian(randomFrom(1), 3 * 32)
  const [expected, actual] = await Promise.all([
    analyse(host, { samples: { [name]: [{ data: values, shape: [3, 32] }] } }),
    analyse(model, { samples: { [name]: [place(values, [3, 32])] } }),
  ])
  expect(actual.targets[1].experts).toEqual(expected.targets[1].experts)
  actual.targets[1].layers[2].router.weights.forEach((weight, e) =>
    expect(weight).toBeCloseTo(expected.targets[1].layers[2].router.weights[e], 6),
  )

  const lora = await LoraModel.fromPretrained(LORA)
  const onHost = await analyse(lora)
  expect(await analyse(moved(lora))).toEqual(onHost)
})

it.each(['float32', 'bfloat16', 'float16'] as const)('writes %s tensors from the backend', async (dtype) => {
  const path = join(newFolder(), 'file.safetensors')
  const values = place(gaussian(randomFrom(2), 6), [2, 3], dtype)
  const { data } = await values.toHost()
  const stored: StoredTensor = { dtype, shape: [6], data: data as Uint16Array }
  const tensors = new Map<string, TensorLike>()
  tensors.set('here', values)
  tensors.set('plain', stored)
  tensors.set('of another library', { data: data as Float32Array, dims: [3, 2], type: dtype })
  if (backend !== 'cpu') {
    const memory = deviceArray(backend, data.byteLength)
    memory.upload(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    // The last row, of the caller's memory on the device.
    const byteOffset = data.byteLength / 2
    tensors.set('of the caller', memory.operand({ dtype, shape: [1, 3], byteOffset }))
  }
  await writeSafetensors(path, tensors, new Map([['step', '3']]))
  const file = await SafetensorsFile.open(path)
  expect([...file.metadata]).toEqual([['step', '3']])
  expect(await file.read('here')).toEqual({ dtype, shape: [2, 3], data })
  expect(await file.read('plain')).toEqual(stored)
  expect(await file.read('of another library')).toEqual({ dtype, shape: [3, 2], data })
  if (backend !== 'cpu') {
    expect(await file.read('of the caller')).toEqual({ dtype, shape: [1, 3], data: data.slice(3) })
  }
  await file.close()
})
