/** Folders that cannot be listed, and a working directory that does not exist any more. */
import { execFile } from 'node:child_process'
import { chmodSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { newFolder } from '../support/checkpoint.js'
import { findProgram } from '../support/find-program.js'

const MODEL = `
  const { LilyModel, tensor, writeSafetensors } = await import(process.env.MAIN)
  const { rmdirSync } = await import('node:fs')
  const model = LilyModel.create({ layers: [{ name: 'q', inFeatures: 3, outFeatures: 2 }], config: { r: 2 } })
  const print = async (...calls) => {
    for (const call of calls) await call().catch((error) => console.log(error.code + ' ' + error.message))
  }
`

/** Runs a program in a process of its own, through `command`. */
async function linesOf(folder: string, program: string, command: readonly string[] = []): Promise<string[]> {
  const env = { ...process.env, FOLDER: folder, MAIN: pathToFileURL(join(packageRoot, 'dist/index.js')).href }
  const node = [process.execPath, '--no-warnings', '--input-type=module', '-e', MODEL + program]
  const [file, ...args] = [...command, ...node]
  const { stdout } = await promisify(execFile)(file, args, { env })
  return stdout.trim().split('\n')
}

/** Of root, which may list every folder: without the capabilities for that, and no other user, who may not read this checkout. */
const setpriv = process.geteuid?.() === 0 ? ['setpriv', '--bounding-set=-dac_override,-dac_read_search'] : []

it('a folder that this process may not list is named, loaded or saved', { timeout: 60_000 }, async ({ skip }) => {
  skip(process.platform === 'win32', 'folders of Windows have no such permissions')
  skip(setpriv.length > 0 && findProgram('setpriv') === undefined, 'no setpriv (Debian: apt install util-linux)')
  const folder = newFolder()
  chmodSync(folder, 0o333)
  const [load, save] = await linesOf(
    folder,
    'await print(() => LilyModel.fromPretrained(process.env.FOLDER), () => model.savePretrained(process.env.FOLDER))',
    setpriv,
  )
  for (const [line, what] of [
    [load, 'listed'],
    [save, 'written'],
  ]) {
    expect(line.startsWith(`ERR_LILY_CHECKPOINT ${folder}: cannot be ${what} (EACCES`), line).toBe(true)
    expect(line).toContain('allow this process to list the folder')
  }
})

it('a relative path without a working directory is a LilyError', { timeout: 60_000 }, async ({ skip }) => {
  skip(process.platform === 'win32', 'Windows keeps the working directory of a process')
  const folder = newFolder()
  const lines = await linesOf(
    folder,
    `process.chdir(process.env.FOLDER)
    rmdirSync(process.env.FOLDER)
    await print(
      () => model.savePretrained('rel'),
      () => writeSafetensors('rel.safetensors', { x: tensor([1], [1]) }),
      () => LilyModel.fromPretrained('rel'),
    )`,
  )
  expect(lines).toHaveLength(3)
  for (const line of lines) expect(line).toMatch(/^ERR_LILY_CHECKPOINT rel/)
  expect(existsSync(folder)).toBe(false)
})
