/** Node's permission model, with the permissions that docs/platforms.md names. */
import { execFile } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { packageRoot } from '../../../lib/binding/root.js'
import { newFolder } from '../../support/checkpoint.js'

const PERMISSION = process.allowedNodeEnvironmentFlags.has('--permission')
  ? '--permission'
  : '--experimental-permission' // of Node 20
// Links of node_modules, as this checkout may have, lead elsewhere.
const read = [packageRoot, realpathSync(join(packageRoot, 'node_modules'))].map((path) => join(path, '*'))

const PROGRAM = `
  import { statSync, chmodSync } from 'node:fs'
  import { LilyModel } from 'lily-kernels'
  const folder = process.env.FOLDER + '/adapter'
  const layers = [{ name: 'proj', inFeatures: 8, outFeatures: 8 }]
  const model = LilyModel.create({ layers, config: { r: 2 } })
  await model.savePretrained(folder)
  const file = folder + '/adapter_config.json'
  chmodSync(file, 0o640)
  await model.savePretrained(folder) // replaces files, and keeps their permissions
  const again = await LilyModel.fromPretrained(folder)
  const mode = (statSync(file).mode & 0o777).toString(8)
  console.log(JSON.stringify({ layers: [...again.layers.keys()], mode }))
`

it("with Node's permission model a model is saved and loaded", { timeout: 60_000 }, async () => {
  const folder = newFolder()
  const inside = join(folder, '*')
  const paths = [...read, inside, '/etc/alpine-release'].map((path) => `--allow-fs-read=${path}`)
  const flags = [PERMISSION, '--allow-addons', ...paths, `--allow-fs-write=${inside}`]
  const program = ['--no-warnings', '--input-type=module', '-e', PROGRAM]
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, ...program], {
    cwd: packageRoot,
    env: { ...process.env, FOLDER: folder },
  })
  // Windows knows read-only files alone.
  expect(JSON.parse(stdout)).toEqual({ layers: ['proj'], mode: process.platform === 'win32' ? '666' : '640' })
})
