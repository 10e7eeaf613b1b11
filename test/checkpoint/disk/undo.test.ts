/** A save that fails at its journal, and after its first renames and removals. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { replaceFiles } from '../../../lib/checkpoint/disk/replace-files.js'
import { newFolder } from '../../support/checkpoint.js'
import { expectRefused } from '../../refusals/refused.js'

const disk = vi.hoisted(() => {
  const state = { isFull: false }
  // Before lib/ is imported, which takes the functions from this object.
  const fs = process.getBuiltinModule('node:fs/promises')
  const { rm, open } = fs
  fs.rm = (path, options) => {
    if (String(path).endsWith('/refused')) return Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }))
    return rm(path, options)
  }
  fs.open = async (path, flags) => {
    const handle = await open(path, flags)
    // As on a full disk: the file is there, and what is written does not fit.
    if (state.isFull && String(path).includes('/.journal.')) {
      handle.writeFile = () => Promise.reject(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }))
    }
    return handle
  }
  return state
})

it('leaves the old files, and nothing else, where the disk has no room for the journal', async () => {
  const folder = newFolder()
  const file = (name: string, content: string) => ({ name, blocks: () => [Buffer.from(content)] })
  await replaceFiles(folder, [file('a', 'old a'), file('b', 'old b')])
  disk.isFull = true
  const save = () => replaceFiles(folder, [file('a', 'new a'), file('b', 'new b')])
  await expectRefused('ERR_LILY_CHECKPOINT', 'ENOSPC', save)
  disk.isFull = false
  expect(readdirSync(folder).sort()).toEqual(['a', 'b'])
  for (const name of ['a', 'b']) expect(readFileSync(join(folder, name), 'utf8')).toBe(`old ${name}`)
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
