/** Folders that cannot be listed, and a working directory that does not exist any more. */
import { execFile } from 'node:child_process'
import { chmodSync, existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { expect, it, onTestFinished } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { LilyModel } from '../../lib/index.js'
import { newFolder } from '../support/checkpoint.js'
import { expectRefused } from '../support/refused.js'

const layers = [{ name: 'q', inFeatures: 3, outFeatures: 2 }]

it('a folder that this process may not list is named, loaded or saved', async () => {
  const folder = newFolder()
  chmodSync(dirname(folder), 0o711)
  chmodSync(folder, 0o333)
  if (process.geteuid?.() === 0) {
    process.seteuid?.('nobody')
    onTestFinished(() => process.seteuid?.(0))
  }
  const advice = 'allow this process to list the folder'
  const load = await expectRefused('ERR_LILY_CHECKPOINT', advice, () => LilyModel.fromPretrained(folder))
  expect(load.message.startsWith(`${folder}: cannot be listed (EACCES`), load.message).toBe(true)
  const model = LilyModel.create({ layers, config: { r: 2 } })
  const save = await expectRefused('ERR_LILY_CHECKPOINT', advice, () => model.savePretrained(folder))
  expect(save.message.startsWith(`${folder}: cannot be written (EACCES`), save.message).toBe(true)
})

const PROGRAM = `
  const { LilyModel, tensor, writeSafetensors } = await import(process.env.MAIN)
  const { rmdirSync } = await import('node:fs')
  const model = LilyModel.create({ layers: [{ name: 'q', inFeatures: 3, outFeatures: 2 }], config: { r: 2 } })
  process.chdir(process.env.FOLDER)
  rmdirSync(process.env.FOLDER)
  const calls = [
    () => model.savePretrained('rel'),
    () => writeSafetensors('rel.safetensors', { x: tensor([1], [1]) }),
    () => LilyModel.fromPretrained('rel'),
  ]
  for (const call of calls) await call().catch((error) => console.log(error.code + ' ' + error.message))
`

it('a relative path without a working directory is a LilyError', { timeout: 60_000 }, async () => {
  const folder = newFolder()
  const env = { ...process.env, FOLDER: folder, MAIN: pathToFileURL(join(packageRoot, 'dist/index.js')).href }
  const args = ['--no-warnings', '--input-type=module', '-e', PROGRAM]
  const { stdout } = await promisify(execFile)(process.execPath, args, { env })
  const lines = stdout.trim().split('\n')
  expect(lines).toHaveLength(3)
  for (const line of lines) expect(line).toMatch(/^ERR_LILY_CHECKPOINT rel/)
  expect(existsSync(folder)).toBe(false)
})
