/**
 * The package as users get it: packed, checked by publint and attw, installed where there is no compiler and no install
 * script may run, and used from both module systems.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { consumer, expected, MODULES } from './support/consumer.js'
import { findProgram } from './support/find-program.js'
import { installPackage, type Installed } from './support/installed.js'

let installed: Installed
beforeAll(() => {
  installed = installPackage()
}, 300_000)
afterAll(() => installed?.remove())

test.each(['ESM', 'CJS'] as const)('installed without a compiler or scripts, it runs from %s', (format) => {
  expect(JSON.parse(installed.run('node', [], MODULES[format].file, consumer(format)))).toEqual(expected)
})

test('the tarball holds what runs and no way to build', () => {
  const files = readdirSync(installed.folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.folder.length + 1))
  const unexpected = files.filter(
    (file) =>
      !/^(package\.json|README\.md|CHANGELOG\.md|LICENSE|dist\/[\w.-]+\.(c?js|d\.c?ts)|prebuilds\/.*(\.node|lily_cuda\.so))$/.test(
        file,
      ),
  )
  expect(unexpected).toEqual([])
  expect(files).toContain('LICENSE')

  const { scripts, gypfile } = JSON.parse(readFileSync(join(installed.folder, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
    gypfile: boolean
  }
  expect(Object.keys(scripts).filter((name) => /^(pre|post)?install$/.test(name))).toEqual([])
  expect(gypfile).toBe(false)
})

const prebuilds = () => join(installed.folder, 'prebuilds')

test('addons are there for this machine, and for linux-arm64 where Debian has its compiler', (context) => {
  const here = `${process.platform}-${process.arch}`
  const hasCompiler = ['aarch64-linux-gnu-g++-12', 'aarch64-linux-gnu-g++'].some(findProgram)
  const platforms = [here, ...(here === 'linux-x64' && hasCompiler ? ['linux-arm64'] : [])]
  expect(readdirSync(prebuilds()).sort()).toEqual(platforms.sort())
  if (here === 'linux-x64' && !hasCompiler) context.skip('of linux-arm64: no aarch64-linux-gnu-g++')
})

// A newer symbol creeps in with one innocent call, and the addon then does not load where it used to.
test('the prebuilt addons ask for no newer libraries than the README says', (context) => {
  const MACHINES: Record<string, number> = { 'linux-x64': 62, 'linux-arm64': 183 } // EM_X86_64, EM_AARCH64
  const newerCompilers: string[] = []
  for (const platform of readdirSync(prebuilds())) {
    const [name] = readdirSync(join(prebuilds(), platform)).filter((file) => file.endsWith('.node'))
    const addon = readFileSync(join(prebuilds(), platform, name))
    const text = addon.toString('latin1')
    const newest = (version: RegExp) => Math.max(...[...text.matchAll(version)].map((match) => Number(match[1])))
    expect(addon.readUInt16LE(18), `${platform}: the machine in the ELF header`).toBe(MACHINES[platform])
    expect(newest(/GLIBC_2\.(\d+)/g), platform).toBeLessThanOrEqual(29)
    const compiler = newest(/GCC: \([^)]*\) (\d+)/g)
    if (compiler <= 12) expect(newest(/GLIBCXX_3\.4\.(\d+)/g), platform).toBeLessThanOrEqual(30)
    else newerCompilers.push(`${platform} was built with GCC ${compiler}`)
  }
  if (newerCompilers.length > 0) context.skip(`of libstdc++: ${newerCompilers.join(', ')}, releases are with GCC 12`)
})
