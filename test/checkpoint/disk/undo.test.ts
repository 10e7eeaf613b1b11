/** A save that fails: before and at its journal, and after its first renames and removals. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { replaceFiles } from '../../../lib/checkpoint/disk/replace-files.js'
import { newFolder } from '../../support/checkpoint.js'
import { expectRefused } from '../../refusals/refused.js'

const disk = vi.hoisted(() => {
  /** The folder of which no journal can be written, or of which none reaches the disk; the errors so far. */
  const state = { full: '', broken: '', errors: 0 }
  const failed = () => Object.assign(new Error(`EIO ${++state.errors}`), { code: 'EIO' })
  // Before lib/ is imported, which takes the functions from this object.
  const fs = process.getBuiltinModule('node:fs/promises')
  const { rm, open } = fs
  fs.rm = (path, options) => {
    if (basename(String(path)) === 'refused')
      return Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }))
    return rm(path, options)
  }
  fs.open = async (path, flags) => {
    if (path === state.broken && readdirSync(path).includes('.lily-save.json')) throw failed()
    const handle = await open(path, flags)
    // As on a full disk: the file is there, and what is written does not fit.
    if (state.full !== '' && String(path).startsWith(join(state.full, '.journal.'))) {
      handle.writeFile = () => Promise.reject(failed())
    }
    return handle
  }
  return state
})

it.for(['full', 'broken'] as const)(
  'leaves the old files, and nothing else, on a disk that is %s',
  async (fault, { skip }) => {
    skip(fault === 'broken' && process.platform === 'win32', 'Windows has no call that flushes a folder')
    const folder = newFolder()
    const file = (name: string, content: string) => ({ name, blocks: () => [Buffer.from(content)] })
    await replaceFiles(folder, [file('a', 'old a'), file('b', 'old b')])
    Object.assign(disk, { [fault]: folder, errors: 0 })
    const save = () => replaceFiles(folder, [file('a', 'new a'), file('b', 'new b')])
    // The first error: nothing has been renamed, so nothing is tried to undo it.
    await expectRefused('ERR_LILY_CHECKPOINT', 'EIO 1', save)
    expect(readdirSync(folder).sort()).toEqual(['a', 'b'])
    for (const name of ['a', 'b']) expect(readFileSync(join(folder, name), 'utf8')).toBe(`old ${name}`)
  },
)

it('removes its own files where another save was interrupted meanwhile, and not those of that save', async () => {
  const folder = newFolder()
  const [journal, other] = ['.lily-save.json', '.a.lily-0123456789ab.tmp']
  const blocks = () => {
    writeFileSync(join(folder, other), 'of another save')
    writeFileSync(join(folder, journal), JSON.stringify([{ to: 'a', from: other, old: null }]))
    throw new Error('thrown by the caller')
  }
  await expect(replaceFiles(folder, [{ name: 'b', blocks }])).rejects.toThrow('thrown by the caller')
  expect(readdirSync(folder).sort()).toEqual([other, journal])
})

it('restores replaced and removed files, and removes new ones', async () => {
  const folder = newFolder()
  const file = (name: string, content: string) => ({ name, blocks: () => [Buffer.from(content)] })
  const old = ['a', 'removed', 'refused']
  await replaceFiles(
    folder,
    old.map((name) => file(name, `old ${name}`)),
  )
  const save = () => replaceFiles(folder, [file('a', 'new a'), file('b', 'new b')], ['removed', 'refused'])
  await expectRefused('ERR_LILY_CHECKPOINT', 'EPERM', save)
  expect(readdirSync(folder).sort()).toEqual([...old].sort())
  for (const name of old) expect(readFileSync(join(folder, name), 'utf8')).toBe(`old ${name}`)
})
