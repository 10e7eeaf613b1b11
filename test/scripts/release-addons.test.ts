/** Which prebuilt files a package may have, by where it is made. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeEach, expect, test } from 'vitest'
import { faultsOf } from '../../scripts/release-addons.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
const write = (...files: string[]) => {
  for (const file of files) {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    writeFileSync(join(folder, file), '')
  }
}
const LINUX = [
  'linux-x64/lily.glibc.node',
  'linux-x64/lily_cuda.so',
  'linux-arm64/lily.glibc.node',
  'win32-x64/lily.node',
]
const MAC = ['darwin-x64/lily.node', 'darwin-arm64/lily.node']

beforeEach(() => {
  rmSync(folder, { recursive: true })
  mkdirSync(folder)
})

test('a release from Linux has its addons and none for macOS', () => {
  write(...LINUX)
  expect(faultsOf(folder, 'release')).toEqual([])
  write(...MAC)
  expect(faultsOf(folder, 'release').sort()).toEqual(
    [...MAC].sort().map((file) => `${file} is not part of a release from here; remove it`),
  )
  expect(faultsOf(folder, 'gathered')).toEqual([])
})

test.each([...LINUX, ...MAC])('a release of the workflow without %s', (left) => {
  write(...[...LINUX, ...MAC].filter((file) => file !== left))
  expect(faultsOf(folder, 'gathered')).toEqual([`there is no ${left}`])
})

test('a checkout packs its own addon, and what cross compilers made', () => {
  const own = `${process.platform}-${process.arch}/lily.own.node`
  write(own)
  expect(faultsOf(folder, 'checkout')).toEqual([])
  write(...LINUX, 'sunos-x64/lily.node')
  expect(faultsOf(folder, 'checkout')).toEqual(['sunos-x64/lily.node is not part of a release from here; remove it'])
  expect(faultsOf(folder, 'release')).toContain(`${own} is not part of a release from here; remove it`)
})

test('an addon is at most 2 MB when compressed', () => {
  write(...LINUX)
  writeFileSync(join(folder, 'win32-x64/lily.node'), Buffer.alloc(9e6))
  expect(faultsOf(folder, 'release')).toEqual([])
  writeFileSync(join(folder, 'win32-x64/lily.node'), randomBytes(2e6))
  expect(faultsOf(folder, 'release')).toEqual([expect.stringMatching(/^win32-x64\/lily\.node has 2\d+ bytes when/)])
})
