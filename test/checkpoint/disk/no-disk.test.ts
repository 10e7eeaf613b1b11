/** Checkpoints in a build for browsers, in which disk/disk.browser.ts takes the place of disk/disk.ts. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import * as browser from '../../../lib/checkpoint/disk/disk.browser.js'
import {
  AdamW,
  LilyModel,
  LoraModel,
  readPretrainedState,
  SafetensorsFile,
  writeSafetensors,
} from '../../../lib/index.js'
import { CONFIG, GOLDEN, TENSORS } from '../../support/checkpoint.js'
import { expectRefused } from '../../refusals/refused.js'

vi.mock('../../../lib/checkpoint/disk/disk.js', () => import('../../../lib/checkpoint/disk/disk.browser.js'))

const bytesOf = (name: string) => Uint8Array.from(readFileSync(join(GOLDEN, name)))

it('has all that it takes the place of', async () => {
  const node = await vi.importActual<object>('../../../lib/checkpoint/disk/disk.js')
  expect(Object.keys(browser).sort()).toEqual(Object.keys(node).sort())
})

it('reads and saves adapters as files', async () => {
  const model = await LilyModel.fromPretrained({ [CONFIG]: bytesOf(CONFIG), [TENSORS]: new Blob([bytesOf(TENSORS)]) })
  model.freeze('uniform')
  const files = await model.pretrainedFiles()
  expect((await LilyModel.fromPretrained(files)).layers.size).toBe(model.layers.size)
  const saved = files.find(({ name }) => name === TENSORS)!
  expect(new Uint8Array(await saved.arrayBuffer())).toEqual(bytesOf(TENSORS))
  expect((await LoraModel.fromPretrained(await model.loraFiles())).layers.size).toBe(model.layers.size)
  const file = await SafetensorsFile.open(saved)
  expect(file.tensors.size).toBe(24)
})

it('saves and reads the state of the optimiser with them', async () => {
  const model = await LilyModel.fromPretrained({ [CONFIG]: bytesOf(CONFIG), [TENSORS]: bytesOf(TENSORS) })
  const optimiser = new AdamW(model.parameters())
  optimiser.step()
  const files = await model.pretrainedFiles({ optimiser })
  const again = await LilyModel.fromPretrained(files)
  expect((await readPretrainedState(files, again)).step).toBe(1)
})

it('refuses paths, and says what to do', async () => {
  const model = await LilyModel.fromPretrained({ [CONFIG]: bytesOf(CONFIG), [TENSORS]: bytesOf(TENSORS) })
  model.freeze('uniform')
  const lora = await LoraModel.fromPretrained(await model.loraFiles())
  const x = { data: new Float32Array(2), shape: [2], dtype: 'float32' as const }
  const calls: [argument: string, call: () => Promise<unknown>][] = [
    ['folder', () => LilyModel.fromPretrained(GOLDEN)],
    ['folder', () => LoraModel.fromPretrained(new URL('https://example.org/adapter'))],
    ['folder', () => model.savePretrained('adapter')],
    ['folder', () => model.saveLora('adapter')],
    ['folder', () => lora.savePretrained('adapter')],
    ['folder', () => readPretrainedState('adapter', lora)],
    ['path', () => SafetensorsFile.open(join(GOLDEN, TENSORS))],
    ['path', () => writeSafetensors('x.safetensors', { x })],
  ]
  for (const [argument, call] of calls) {
    const error = await expectRefused('ERR_LILY_ARGUMENT', `${argument}: there is no file system here; `, call)
    expect(error.argument).toBe(argument)
  }
})
