/** Which file of a package is loaded on each system, beside what node-gyp-build, whose names prebuilt addons have, chooses. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { runCli } from '../support/cli.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const FILES = [
  'linux-x64/lily.glibc.node',
  'linux-x64/lily.musl.node',
  'linux-arm64/lily.glibc.node',
  'darwin-arm64/lily.node',
  'darwin-x64/lily.node',
  'win32-x64/lily.node',
]
for (const file of FILES) {
  const path = join(folder, 'prebuilds', file)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, 'no addon')
}

const own = { platform: process.platform, arch: process.arch }
const become = (system: { platform: string; arch: string }) => {
  for (const [name, value] of Object.entries(system)) Object.defineProperty(process, name, { value })
}
afterEach(() => {
  become(own)
  vi.unstubAllEnvs()
})

const nameOf = (file: string) => relative(join(folder, 'prebuilds'), file).replaceAll(sep, '/')

async function found(platform: string, arch: string, libc: string): Promise<[file: string | null, machine: string]> {
  become({ platform, arch })
  vi.stubEnv('LIBC', libc)
  vi.stubEnv('PREBUILDS_ONLY', '1')
  vi.stubEnv('LILY_KERNELS_PREBUILD', folder)
  vi.resetModules()
  const addon = await import('../../lib/binding/addon.js')
  const file = addon.findAddon()
  return [file && nameOf(file), addon.platform]
}

const SYSTEMS: readonly [machine: string, platform: string, arch: string, libc: string, file: string | null][] = [
  ['linux-x64', 'linux', 'x64', 'glibc', 'linux-x64/lily.glibc.node'],
  ['linux-x64 with musl', 'linux', 'x64', 'musl', 'linux-x64/lily.musl.node'],
  ['linux-arm64', 'linux', 'arm64', 'glibc', 'linux-arm64/lily.glibc.node'],
  ['linux-arm64 with musl', 'linux', 'arm64', 'musl', null],
  ['darwin-arm64', 'darwin', 'arm64', '', 'darwin-arm64/lily.node'],
  ['darwin-x64', 'darwin', 'x64', '', 'darwin-x64/lily.node'],
  ['win32-x64', 'win32', 'x64', '', 'win32-x64/lily.node'],
  ['win32-arm64', 'win32', 'arm64', '', null],
  ['freebsd-x64', 'freebsd', 'x64', '', null],
]

test.each(SYSTEMS)('%s', async (machine, platform, arch, libc, file) => {
  expect(await found(platform, arch, libc)).toEqual([file, machine])
})

test('node-gyp-build chooses the same files', () => {
  // It reads its environment when it is loaded.
  const program = `
    const chosen = ${JSON.stringify(SYSTEMS)}.map(([, npm_config_platform, npm_config_arch, LIBC]) => {
      Object.assign(process.env, { npm_config_platform, npm_config_arch, LIBC, PREBUILDS_ONLY: '1' })
      for (const file of Object.keys(require.cache)) delete require.cache[file]
      try { return require('node-gyp-build').resolve(process.argv[1]) } catch { return null }
    })
    console.log(JSON.stringify(chosen))`
  const printed = execFileSync(process.execPath, ['-e', program, folder], { cwd: packageRoot, encoding: 'utf8' })
  const chosen = (JSON.parse(printed) as (string | null)[]).map((file) => file && nameOf(file))
  expect(chosen).toEqual(SYSTEMS.map(([, , , , file]) => file))
})

test('an addon that does not load is replaced by WebAssembly, and the doctor says why', async (context) => {
  const machine = `${own.platform}-${own.arch}`
  const file = FILES.find((file) => file.startsWith(`${machine}/`))
  if (file === undefined) return context.skip(`no release has an addon for ${machine}`)
  const { stdout } = await runCli(['doctor'], { LILY_KERNELS_PREBUILD: folder, PREBUILDS_ONLY: '1', LIBC: 'glibc' })
  const ending = String.raw`(; running on WebAssembly with |, and .*no WebAssembly build)`
  expect(stdout).toMatch(
    new RegExp(`^addon +(not in use|FAILS): the native addon does not load on ${machine} .*lily.*${ending}`, 'm'),
  )
})
