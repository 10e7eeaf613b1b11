/** The package in a project of Yarn with Plug'n'Play, which has no node_modules, and replaces parts of the file system. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { GOLDEN } from '../support/checkpoint.js'
import { consumer, expected, MODULES } from '../support/consumer.js'
import { type Installed, installPackage } from '../support/installed.js'
import { installOnce } from '../support/npm-install.js'
import { temporaryFolder } from '../support/temporary.js'

const project = temporaryFolder()
let installed: Installed
let yarn: string

const run = (...args: string[]): string =>
  execFileSync(process.execPath, [yarn, ...args], { cwd: project, env: installed.environment, encoding: 'utf8' })

beforeAll(() => {
  installed = installPackage()
  yarn = join(
    installOnce('yarn', ['@yarnpkg/cli-dist@4.9.2']),
    'node_modules',
    '@yarnpkg',
    'cli-dist',
    'bin',
    'yarn.js',
  )
  const tarballs = join(packageRoot, 'build', 'package')
  cpSync(join(tarballs, readdirSync(tarballs)[0]), join(project, 'lily-kernels.tgz'))
  writeFileSync(join(project, 'package.json'), '{ "private": true }\n')
  writeFileSync(join(project, 'yarn.lock'), '')
  const settings = ['nodeLinker: pnp', 'enableScripts: false', 'enableTelemetry: false', 'enableGlobalCache: false']
  writeFileSync(join(project, '.yarnrc.yml'), `${settings.join('\n')}\n`)
  run('add', 'lily-kernels@file:./lily-kernels.tgz')
}, 600_000)
afterAll(() => installed?.remove())

test.each(['ESM', 'CJS'] as const)('%s', (format) => {
  const { file } = MODULES[format]
  writeFileSync(join(project, file), consumer(format))
  expect(JSON.parse(run('node', file))).toEqual(expected)
})

test('an adapter is loaded, saved and loaded again', () => {
  const folder = join(project, 'adapter')
  mkdirSync(folder)
  writeFileSync(
    join(project, 'adapter.mjs'),
    `import { LilyModel } from 'lily-kernels'
     const [from, to] = ${JSON.stringify([GOLDEN, folder])}
     await (await LilyModel.fromPretrained(from)).savePretrained(to)
     await (await LilyModel.fromPretrained(to)).savePretrained(to)
     console.log((await LilyModel.fromPretrained(to)).layers.size)`,
  )
  expect(run('node', 'adapter.mjs').trim()).toBe('8')
})
