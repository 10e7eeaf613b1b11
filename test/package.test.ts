/**
 * The package as users get it: packed, checked by publint and attw, installed where there is no compiler and no install
 * script may run, and used from both module systems.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Report } from '../bench/report.js'
import type { Diagnosis } from '../lib/cli/findings.js'
import { packageRoot } from '../lib/root.js'

// Two tokens, d_in = d_out = 2, r = 1, E = 2. The router is zero, so both experts weigh 1/2; all results are exact.
const consumer = `
const { x, a, router, b } = {
  x: tensor(new Float32Array([1, 2, 3, 4]), [2, 2]),
  a: tensor(new Float32Array([1, 1]), [1, 2]),
  router: tensor(new Float32Array(2), [2, 1]),
  b: tensor(new Float32Array([1, 0, 0, 2]), [2, 1, 2]),
}
const { y, saved } = lilyForward({ x, a, router, b }, { scaling: 2 })
const dy = tensor(new Float32Array([1, 1, 1, 1]), [2, 2])
const gradients = lilyBackward({ dy }, saved)
const result = { y, hidden: saved.hidden, ...gradients }
console.log(JSON.stringify(Object.fromEntries(Object.entries(result).map(([name, value]) => [name, [...value.data]]))))
`
const expected = {
  hidden: [3, 7], // x a^T
  y: [3, 6, 7, 14], // 2 h [1/2, 1]
  dx: [3, 3, 3, 3], // dh a, dh = 2 dy [1/2, 1]^T
  da: [12, 18], // dh^T x
  dRouter: [-25, 25], // dw = <b_e, [20, 20]> = 20, 40; dl = 1/2 (dw_e / 2 - 15) = -+2.5 for both tokens
  db: [10, 10, 10, 10], // 1/2 * 2 h^T dy
}

function find(program: string): string {
  const found = (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
  if (found === undefined) throw new Error(`${program} is not on PATH`)
  return found
}

/** Environment of a machine that has node, npm and a shell and nothing else. */
function bareEnvironment(bin: string): NodeJS.ProcessEnv {
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, 'node'))
  // npx runs what it finds through a shell.
  for (const program of ['npm', 'npx', 'sh']) symlinkSync(find(program), join(bin, program))
  // What `npm test` tells its children about this checkout would lead their npm back into it.
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^npm_(package|lifecycle|command|execpath|config_.*prefix$)/i.test(name) && name !== 'NODE_OPTIONS',
  )
  return { ...Object.fromEntries(inherited), PATH: bin, PREBUILDS_ONLY: '1' }
}

const temporary = mkdtempSync(join(tmpdir(), 'lily-package-'))
const project = join(temporary, 'project')
const installed = join(project, 'node_modules', 'lily-kernels')
let environment: NodeJS.ProcessEnv

// Builds the prebuilt addon, packs, and runs publint and attw: any finding of theirs fails here.
beforeAll(() => {
  execFileSync('npm', ['run', 'check:package'], { cwd: packageRoot, stdio: 'inherit' })
  environment = bareEnvironment(join(temporary, 'bin'))
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{ "private": true }\n')
  const folder = join(packageRoot, 'build', 'package')
  const [tarball] = readdirSync(folder)
  execFileSync(
    'npm',
    ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', join(folder, tarball)],
    {
      cwd: project,
      env: environment,
      stdio: 'inherit',
    },
  )
}, 300_000)

afterAll(() => {
  rmSync(temporary, { recursive: true, force: true })
})

test.each([
  ['ESM', 'consumer.mjs', "import { lilyBackward, lilyForward, tensor } from 'lily-kernels'"],
  ['CJS', 'consumer.cjs', "const { lilyBackward, lilyForward, tensor } = require('lily-kernels')"],
])('installed without a compiler or scripts, it runs from %s', (_format, file, load) => {
  writeFileSync(join(project, file), `${load}\n${consumer}`)
  const output = execFileSync('node', [file], { cwd: project, env: environment, encoding: 'utf8' })
  expect(JSON.parse(output)).toEqual(expected)
})

describe('npx lily-kernels', () => {
  const npx = (...args: string[]) =>
    spawnSync('npx', ['--no-install', 'lily-kernels', ...args], { cwd: project, env: environment, encoding: 'utf8' })

  test('doctor', () => {
    const { status, stdout, stderr } = npx('doctor', '--json')
    expect(status, stderr).toBe(0)
    const { ok, version, addon, backends } = JSON.parse(stdout) as Diagnosis
    expect({ ok, addon }).toEqual({ ok: true, addon: { loads: true } })
    expect(version).toBe(npx('--version').stdout.trim())
    expect(backends[0]).toMatchObject({ name: 'cpu', available: true, selfTest: { passed: true } })
  })

  test('bench', () => {
    const shape = ['--shape', '16,32,4,2', '--seconds', '0.1']
    const { status, stderr } = npx('bench', '--quick', ...shape, '--json', 'bench.json', '--html', 'bench.html')
    expect(status, stderr).toBe(0)
    const { results } = JSON.parse(readFileSync(join(project, 'bench.json'), 'utf8')) as Report
    expect(results).toHaveLength(2 * 5)
    expect(readFileSync(join(project, 'bench.html'), 'utf8')).toContain('<svg')
  })

  test('doctor says so where the addon does not load', () => {
    const prebuilds = join(installed, 'prebuilds')
    renameSync(prebuilds, `${prebuilds}-gone`)
    try {
      const { status, stdout } = npx('doctor', '--json')
      expect(status).toBe(1)
      const { ok, addon, processor } = JSON.parse(stdout) as Diagnosis
      expect({ ok, processor }).toEqual({ ok: false, processor: null })
      expect(addon.reason).toMatch(/the native addon does not load.*install lily-kernels again/s)
    } finally {
      renameSync(`${prebuilds}-gone`, prebuilds)
    }
  })
})

test('the tarball holds what runs and no way to build', () => {
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1))
  const unexpected = files.filter(
    (file) =>
      !/^(package\.json|README\.md|CHANGELOG\.md|LICENSE|dist\/[\w.-]+\.(c?js|d\.c?ts)|dist\/THIRD-PARTY-LICENSES\.txt|prebuilds\/.*(\.node|lily_cuda\.so))$/.test(
        file,
      ),
  )
  expect(unexpected).toEqual([])
  expect(files.filter((file) => file.startsWith('prebuilds/'))).not.toEqual([])
  expect(files).toContain('LICENSE')

  const { scripts, gypfile } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
    gypfile: boolean
  }
  expect(Object.keys(scripts).filter((name) => /^(pre|post)?install$/.test(name))).toEqual([])
  expect(gypfile).toBe(false)
})

// A newer symbol creeps in with one innocent call, and the addon then does not load where it used to.
test('the prebuilt addon asks for no newer libraries than the README says', () => {
  const folder = join(installed, 'prebuilds', `${process.platform}-${process.arch}`)
  const [name] = readdirSync(folder).filter((file) => file.endsWith('.node'))
  const text = readFileSync(join(folder, name), 'latin1')
  const newest = (library: RegExp) => Math.max(...[...text.matchAll(library)].map((match) => Number(match[1])))
  expect(newest(/GLIBC_2\.(\d+)/g)).toBeLessThanOrEqual(29)
  expect(newest(/GLIBCXX_3\.4\.(\d+)/g)).toBeLessThanOrEqual(30) // GCC 12's
})
