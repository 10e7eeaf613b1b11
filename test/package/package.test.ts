/**
 * The package as users get it: packed, checked by publint and attw, installed without a compiler and without install
 * scripts, and used from both module systems.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, renameSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
import { packageRoot } from '../../lib/binding/root.js'
import { faultsOf } from '../../scripts/release-addons.js'
import { windowsOptions } from '../../scripts/windows-toolchain.js'
import { consumer, expected, MODULES, tfjsConsumer } from '../support/consumer.js'
import { findProgram } from '../support/find-program.js'
import { type Installed, installPackage } from '../support/installed.js'

let installed: Installed
beforeAll(() => {
  installed = installPackage()
}, 7_200_000)
afterAll(() => installed?.remove())

test.each(['ESM', 'CJS'] as const)('runs from %s after an installation without a compiler and scripts', (format) => {
  expect(JSON.parse(installed.run('node', [], MODULES[format].file, consumer(format)))).toEqual(expected)
})

test('runs where there is no TextDecoder, as in jsdom under Jest', () => {
  const source = `delete globalThis.TextDecoder\ndelete globalThis.TextEncoder\n${consumer('CJS')}`
  expect(JSON.parse(installed.run('node', [], 'jsdom.cjs', source))).toEqual(expected)
})

describe('with TensorFlow.js', () => {
  beforeAll(() => {
    // That of this checkout; its own dependencies are found beside it.
    symlinkSync(
      join(packageRoot, 'node_modules', '@tensorflow'),
      join(installed.project, 'node_modules', '@tensorflow'),
    )
  })
  const formats = ['ESM', 'CJS'] as const
  const pairs = formats.flatMap((ofMain) => formats.map((ofTfjs) => [ofMain, ofTfjs] as const))
  test.each(pairs)('lily-kernels as %s, lily-kernels/tfjs as %s', (ofMain, ofTfjs) => {
    const printed = installed.run('node', [], 'tfjs.mjs', tfjsConsumer(ofMain, ofTfjs))
    const { hidden: _, ...others } = expected
    expect(JSON.parse(printed.slice(printed.indexOf('{')))).toEqual(others)
  })
})

const prebuilds = () => join(installed.folder, 'prebuilds')
const hasWasm = () => existsSync(join(installed.folder, 'dist', 'browser', 'wasm.js'))

describe('npx lily-kernels', () => {
  const npx = (...args: string[]) =>
    spawnSync('npx', ['--no-install', 'lily-kernels', ...args], {
      cwd: installed.project,
      env: installed.environment,
      encoding: 'utf8',
    })

  test('doctor', () => {
    const { status, stdout, stderr } = npx('doctor', '--json')
    expect(status, stderr).toBe(0)
    const { ok, version, addon, backends } = JSON.parse(stdout) as Diagnosis
    expect({ ok, addon }).toEqual({ ok: true, addon: { loads: true } })
    expect(version).toBe(npx('--version').stdout.trim())
    expect(backends[0]).toMatchObject({ name: 'cpu', available: true, selfTest: { passed: true } })
    // A release contains the CUDA library, which also loads without a GPU.
    const hasCuda = existsSync(join(prebuilds(), 'linux-x64', 'lily_cuda.so'))
    if (process.env.LILY_TEST_RELEASE === '1') expect(hasCuda).toBe(true)
    const reason = hasCuda ? /driver|GPU/ : /has no CUDA library/
    if (backends[1].available !== true) expect(backends[1].reason).toMatch(reason)
  })

  test('bench', () => {
    const shape = ['--shape', '16,32,4,2', '--seconds', '0.1']
    const { status, stderr } = npx('bench', '--quick', ...shape, '--json', 'bench.json', '--html', 'bench.html')
    expect(status, stderr).toBe(0)
    const [{ results }] = JSON.parse(readFileSync(join(installed.project, 'bench.json'), 'utf8')) as Report[]
    expect(results).toHaveLength(2 * 5)
    expect(readFileSync(join(installed.project, 'bench.html'), 'utf8')).toContain('<svg')
  })

  test('without an addon, WebAssembly runs in its place', (context) => {
    if (!hasWasm()) return context.skip('WebAssembly is not built; npm run build:wasm says why')
    const here = join(prebuilds(), `${process.platform}-${process.arch}`)
    renameSync(here, `${here}-gone`)
    try {
      const { status, stdout, stderr } = npx('doctor', '--json')
      expect(status, stderr).toBe(0)
      const reason = `no native addon for ${process.platform}-${process.arch}; running on WebAssembly with `
      const { ok, addon, processor, backends } = JSON.parse(stdout) as Diagnosis
      expect({ ok, addon }).toEqual({
        ok: true,
        addon: { loads: false, reason: expect.stringContaining(reason) as string },
      })
      expect(processor?.simd).toMatch(/^wasm/)
      expect(backends[0]).toMatchObject({ available: true, selfTest: { passed: true } })
      for (const format of ['ESM', 'CJS'] as const) {
        expect(JSON.parse(installed.run('node', [], MODULES[format].file, consumer(format)))).toEqual(expected)
      }
    } finally {
      renameSync(`${here}-gone`, here)
    }
  })

  test('doctor says that there is no addon for musl', () => {
    const { environment, project } = installed
    const env = { ...environment, LIBC: 'musl' }
    const { stdout } = spawnSync('npx', ['--no-install', 'lily-kernels', 'doctor'], {
      cwd: project,
      env,
      encoding: 'utf8',
    })
    expect(stdout).toContain(`no native addon for ${process.platform}-${process.arch} with musl`)
  })

  test('doctor reports an addon that does not load', () => {
    const gone = [prebuilds(), join(installed.folder, 'dist', 'browser')].filter(existsSync)
    for (const folder of gone) renameSync(folder, `${folder}-gone`)
    try {
      const { status, stdout } = npx('doctor', '--json')
      expect(status).toBe(1)
      const { ok, addon, processor } = JSON.parse(stdout) as Diagnosis
      expect({ ok, processor }).toEqual({ ok: false, processor: null })
      expect(addon.reason).toMatch(/no native addon for .*no WebAssembly build.*install lily-kernels again/s)
    } finally {
      for (const folder of gone) renameSync(`${folder}-gone`, folder)
    }
  })
})

test('the tarball contains the runtime files and no build files', (context) => {
  const files = readdirSync(installed.folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.folder.length + 1))
  const unexpected = files.filter(
    (file) =>
      !/^(package\.json|README\.md|CHANGELOG\.md|LICENSE|native\/THIRD-PARTY-LICENSES\.txt|dist\/(browser\/)?[\w.-]+\.(c?js|d\.c?ts)|dist\/(browser\/)?THIRD-PARTY-LICENSES\.txt|prebuilds\/.*(\.node|lily_cuda\.so)|docs\/(decisions\/)?[\w-]+\.md|docs\/pictures\/[\w-]+\.svg)$/.test(
        file,
      ),
  )
  expect(unexpected).toEqual([])
  expect(files).toContain('LICENSE')

  const { scripts, gypfile } = JSON.parse(readFileSync(join(installed.folder, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
    gypfile: boolean
  }
  expect(Object.keys(scripts).filter((name) => /^((pre|post)?install|prepare)$/.test(name))).toEqual([])
  expect(gypfile).toBe(false)
  if (!hasWasm()) context.skip('of publint and attw: they check the whole package, and WebAssembly is not built')
})

test('the tarball contains the notices of what is compiled into its binaries, and of what lacks them on npm', () => {
  const notices = readFileSync(join(installed.folder, 'native', 'THIRD-PARTY-LICENSES.txt'), 'utf8')
  const license = readFileSync(join(packageRoot, 'node_modules', 'node-addon-api', 'LICENSE.md'), 'utf8')
  expect(notices).toContain(license.trim())
  const libraries = ['winpthreads of MinGW-w64', 'musl, as part of wasi-libc', 'cloudlibc, as part of wasi-libc']
  for (const library of [...libraries, 'onnx-buf, in lily-kernels/onnx', '@bufbuild/protobuf, in lily-kernels/onnx']) {
    expect(notices).toContain(library)
  }
})

test('the tarball contains the documents that its README, types and messages name', () => {
  const texts = ['README.md', ...readdirSync(join(installed.folder, 'dist')).map((name) => join('dist', name))]
    .filter((name) => /\.(md|js|d\.ts)$/.test(name))
    .map((name) => readFileSync(join(installed.folder, name), 'utf8'))
  const named = new Set(texts.flatMap((text) => text.match(/\bdocs\/[\w/-]+\.md\b/g) ?? []))
  expect(named.size).toBeGreaterThan(10)
  expect([...named].filter((name) => !existsSync(join(installed.folder, name)))).toEqual([])
})

test('the tarball contains addons for this machine, and for others if their compilers are installed', (context) => {
  const here = `${process.platform}-${process.arch}`
  const isCrossing = here === 'linux-x64'
  const others: [platform: string, hasCompiler: boolean][] = [
    ['linux-arm64', isCrossing && ['aarch64-linux-gnu-g++-12', 'aarch64-linux-gnu-g++'].some(findProgram)],
    ['win32-x64', isCrossing && windowsOptions() !== null],
  ]
  const platforms = [here, ...others.flatMap(([platform, hasCompiler]) => (hasCompiler ? [platform] : []))]
  if (process.env.LILY_TEST_RELEASE === '1') {
    // The workflow gathers more than one machine can build, and packs it before this runs.
    expect(faultsOf(prebuilds(), process.env.LILY_TEST_PACKED === '1' ? 'gathered' : 'release')).toEqual([])
    return
  }
  expect(readdirSync(prebuilds()).sort()).toEqual(platforms.sort())
  const left = others.filter(([platform]) => !platforms.includes(platform))
  if (left.length > 0) context.skip(`of ${left.map(([platform]) => platform).join(' and ')}: no compiler for it here`)
})

/** The format of a binary and its machine, as the specifications of ELF, PE and Mach-O number them. */
function machineOf(binary: Buffer): string {
  if (binary.toString('latin1', 0, 4) === '\x7fELF') return `ELF ${binary.readUInt16LE(18)}`
  if (binary.toString('latin1', 0, 2) === 'MZ') return `PE ${binary.readUInt16LE(binary.readUInt32LE(0x3c) + 4)}`
  return binary.readUInt32LE(0) === MACH_O_MAGIC ? `Mach-O ${binary.readUInt32LE(4)}` : 'neither'
}
const MACH_O_MAGIC = 4_277_009_103 // MH_MAGIC_64
const MACHINES: Record<string, string> = {
  'linux-x64': 'ELF 62', // EM_X86_64
  'linux-arm64': 'ELF 183', // EM_AARCH64
  'win32-x64': 'PE 34404', // IMAGE_FILE_MACHINE_AMD64
  'darwin-x64': 'Mach-O 16777223', // CPU_TYPE_X86_64
  'darwin-arm64': 'Mach-O 16777228', // CPU_TYPE_ARM64
}

/** The newest minor version among the symbols of a binary. */
function newestIn(binary: Buffer): (version: RegExp) => number {
  const text = binary.toString('latin1')
  return (version) => Math.max(...[...text.matchAll(version)].map((match) => Number(match[1])))
}

// A single call can introduce a newer symbol, and the addon then does not load on older systems.
test('the prebuilt addons require no newer libraries than docs/platforms.md states', (context) => {
  const newerCompilers: string[] = []
  for (const platform of readdirSync(prebuilds())) {
    const [name] = readdirSync(join(prebuilds(), platform)).filter((file) => file.endsWith('.node'))
    const addon = readFileSync(join(prebuilds(), platform, name))
    expect(machineOf(addon), platform).toBe(MACHINES[platform])
    if (!platform.startsWith('linux-')) continue
    const newest = newestIn(addon)
    expect(newest(/GLIBC_2\.(\d+)/g), platform).toBeLessThanOrEqual(29)
    const compiler = newest(/GCC: \([^)]*\) (\d+)/g)
    if (compiler <= 12) expect(newest(/GLIBCXX_3\.4\.(\d+)/g), platform).toBeLessThanOrEqual(30)
    else newerCompilers.push(`${platform} was built with GCC ${compiler}`)
  }
  if (newerCompilers.length > 0) context.skip(`of libstdc++: ${newerCompilers.join(', ')}, releases are with GCC 12`)
})

test('the CUDA library requires no newer libraries than docs/platforms.md states', (context) => {
  // The library of the tarball, which only releases contain, or that of the checkout, which has the same code.
  const file = [
    join(prebuilds(), 'linux-x64', 'lily_cuda.so'),
    join(packageRoot, 'build', 'Release', 'lily_cuda.so'),
  ].find(existsSync)
  if (file === undefined) return context.skip('there is no CUDA library: building it requires nvcc')
  const newest = newestIn(readFileSync(file))
  expect(newest(/GLIBC_2\.(\d+)/g)).toBeLessThanOrEqual(34)
  expect(newest(/GLIBCXX_3\.4\.(\d+)/g)).toBeLessThanOrEqual(30)
})
