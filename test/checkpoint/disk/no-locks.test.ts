/** A folder in a file system without locks, which is every one on WebAssembly: calls of one process exclude each other. */
import { expect, it, vi } from 'vitest'
import { native } from '../../../lib/binding/native.js'
import { LilyModel } from '../../../lib/index.js'
import { newFolder } from '../../support/checkpoint.js'

const SAVES = 40
const layers = [0, 1].map((l) => ({ name: `layers.${l}.q_proj`, inFeatures: 24, outFeatures: 16 }))

/** Everything in save i holds the number i. */
function numbered(i: number): LilyModel {
  const model = LilyModel.create({ layers, config: { r: 4, scaling: i, targetModules: ['q_proj'] } })
  for (const { value } of model.parameters().values()) (value.data as Float32Array).fill(i)
  return model
}

it('a load beside saves reads all files of one save', { timeout: 60_000 }, async () => {
  vi.spyOn(native, 'fileLock').mockReturnValue(null)
  const folder = newFolder()
  await numbered(1).savePretrained(folder)
  let isSaving = true
  const save = async () => {
    for (let i = 2; i <= SAVES; i++) {
      await numbered(i).savePretrained(folder, { format: i % 2 === 0 ? 'compact' : 'peft' })
    }
    isSaving = false
  }
  const load = async () => {
    while (isSaving) {
      const model = await LilyModel.fromPretrained(folder)
      const values = [...model.parameters().values()].map(({ value }) => (value.data as Float32Array)[0])
      expect(new Set(values)).toEqual(new Set([model.config.scaling]))
    }
  }
  await Promise.all([save(), load(), load(), load()])
  expect((await LilyModel.fromPretrained(folder)).config.scaling).toBe(SAVES)
})
