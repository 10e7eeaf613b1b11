/** What the file system of Windows refuses: files that are open elsewhere, files that are read-only, and locks. */
import { chmodSync, closeSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { replaceFiles } from '../../../lib/checkpoint/disk/replace-files.js'
import { LilyModel } from '../../../lib/index.js'
import { CONFIG, GOLDEN, newFolder, TENSORS } from '../../support/checkpoint.js'
import { expectRefused } from '../../refusals/refused.js'

beforeEach(({ skip }) => {
  skip(process.platform !== 'win32', 'of Windows')
})
afterEach(() => {
  vi.restoreAllMocks()
})

const NAMES = ['a', 'b', 'c']
const save = (folder: string, age: string) =>
  replaceFiles(
    folder,
    NAMES.map((name) => ({ name, blocks: () => [Buffer.from(`${age} ${name}`)] })),
  )
const contents = (folder: string) => readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'))
const OLD = NAMES.map((name) => `old ${name}`)

it.each(['a', 'c'])('a save undoes its renames where %s stays open elsewhere', async (name) => {
  const folder = newFolder()
  await save(folder, 'old')
  const file = openSync(join(folder, name), 'r')
  // The ten seconds for which it waits.
  let now = 0
  vi.spyOn(performance, 'now').mockImplementation(() => (now += 1000))
  await expectRefused('ERR_LILY_CHECKPOINT', `\\${name}'); close the programs that have the file open`, () =>
    save(folder, 'new'),
  )
  expect(now).toBeLessThan(30_000)
  expect(contents(folder)).toEqual(OLD)
  closeSync(file)
  await save(folder, 'new')
  expect(contents(folder)).toEqual(NAMES.map((each) => `new ${each}`))
})

it('a save refuses to replace a file that is read-only', async () => {
  const folder = newFolder()
  await save(folder, 'old')
  chmodSync(join(folder, 'b'), 0o444)
  await expectRefused('ERR_LILY_CHECKPOINT', 'got one that is read-only', () => save(folder, 'new'))
  expect(contents(folder)).toEqual(OLD)
  chmodSync(join(folder, 'b'), 0o666)
})

it('an adapter is saved and loaded without a temporary folder', async () => {
  const folder = newFolder()
  const { TEMP, TMP } = process.env
  Object.assign(process.env, { TEMP: join(folder, 'none'), TMP: join(folder, 'none') })
  try {
    await (await LilyModel.fromPretrained(GOLDEN)).savePretrained(join(folder, 'adapter'))
  } finally {
    Object.assign(process.env, { TEMP, TMP })
  }
  expect(readdirSync(join(folder, 'adapter')).sort()).toEqual([CONFIG, TENSORS].sort())
})
