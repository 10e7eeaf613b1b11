/** Folders whose paths are long or have unusual letters, and files that are open. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, toNamespacedPath } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { withFolderLock } from '../../../lib/checkpoint/disk/folder-lock.js'
import { AdamW, LilyModel, readPretrainedState, SafetensorsFile } from '../../../lib/index.js'
import { CONFIG, GOLDEN, newFolder, TENSORS } from '../../support/checkpoint.js'

const OF_WINDOWS = 'a path of Windows'
const OPTIMISER = 'optimiser.safetensors'

/** Saves PEFT's adapter with an optimiser, and checks what is loaded from the folder. */
async function saveAndLoad(folder: string | URL): Promise<void> {
  const path = typeof folder === 'string' ? folder : fileURLToPath(folder)
  const model = await LilyModel.fromPretrained(GOLDEN)
  // Twice: the second save replaces files.
  for (let i = 0; i < 2; i++) await model.savePretrained(folder, { optimiser: new AdamW(model.parameters()) })
  expect(readdirSync(path).sort()).toEqual([CONFIG, TENSORS, OPTIMISER].sort())
  const loaded = await LilyModel.fromPretrained(folder)
  expect((await readPretrainedState(folder, loaded)).step).toBe(0)
  const again = newFolder()
  await loaded.savePretrained(again)
  const [first, second] = [path, again].map((each) => readFileSync(join(each, TENSORS)))
  expect(second.equals(first)).toBe(true)
}

describe('an adapter is saved and loaded in a folder', () => {
  it.each([
    ['whose path has more than 260 characters', join(...Array<string>(6).fill('n'.repeat(60)))],
    ['whose path has spaces and letters of other alphabets', join('my adapters', 'Çà – Ω モデル 🌷')],
    ['whose path has what a URL escapes', '100% #1 a+b'],
  ])('%s', async (_, name) => {
    const folder = newFolder()
    await saveAndLoad(join(folder, name))
    await saveAndLoad(pathToFileURL(join(folder, name)))
  })

  it.for<[string, (folder: string) => string]>([
    ['with slashes', (folder) => folder.replaceAll('\\', '/')],
    ['in other letters', (folder) => folder.toUpperCase()],
    ['with the prefix of long paths', toNamespacedPath],
  ])('of Windows %s', async ([, written], { skip }) => {
    skip(process.platform !== 'win32', OF_WINDOWS)
    await saveAndLoad(written(newFolder()))
  })
})

it('of Windows: a lock is that of a folder, not that of its path', async ({ skip }) => {
  skip(process.platform !== 'win32', OF_WINDOWS)
  const folder = newFolder()
  const model = await LilyModel.fromPretrained(GOLDEN)
  let save: Promise<void> | undefined
  await withFolderLock(folder, 'shared', async () => {
    save = model.savePretrained(folder.toUpperCase().replaceAll('\\', '/'))
    await delay(300)
    expect(readdirSync(folder)).toEqual([])
  })
  await save
  expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS].sort())
})

it('a save replaces a file that is open, which keeps its content', async () => {
  const folder = newFolder()
  const model = await LilyModel.fromPretrained(GOLDEN)
  await model.savePretrained(folder)
  const file = await SafetensorsFile.open(join(folder, TENSORS))
  const [name] = file.tensors.keys()
  const before = await file.readBytes(name)
  for (const { value } of model.parameters().values()) (value.data as Float32Array).fill(7)
  const save = model.savePretrained(folder)
  await delay(300)
  expect(await file.readBytes(name)).toEqual(before)
  await file.close()
  await save
  const [loaded] = (await LilyModel.fromPretrained(folder)).parameters().values()
  expect(new Set(loaded.value.data as Float32Array)).toEqual(new Set([7]))
})
