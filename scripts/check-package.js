#!/usr/bin/env node
// Packs the package as it would be published into build/package/ and checks the tarball with publint and attw, unless it
// lacks the files for browsers. Requires dist/ (npm run build:ts). Builds only the prebuilt addons and, with --release, the
// CUDA library. With --gathered it builds nothing: .github/workflows/release.yml has built the addons.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { faultsOf } from './release-addons.js'

/** The most bytes of a release, so that growth is noticed. */
const MOST_BYTES = { library: 10e6, tarball: 14e6 }

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'package')

/** @type {(command: string, ...args: string[]) => void} */
function run(command, ...args) {
  console.log(`> ${command} ${args.join(' ')}`)
  if (spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status !== 0) process.exit(1)
}

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/** @type {(file: string, most: number) => void} */
function checkSize(file, most) {
  const { size } = statSync(file)
  if (size > most) fail(`${file} has ${size} bytes, more than ${most}`)
}

/** @type {unknown} */
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { name, version } = /** @type {{ name: string, version: string }} */ (manifest)
const isGathered = process.argv.includes('--gathered')
const isRelease = isGathered || process.argv.includes('--release')
const prebuilds = join(root, 'prebuilds')
const tarball = join(folder, `${name}-${version}.tgz`)

const isWhole = existsSync(join(root, 'dist', 'browser', 'wasm.js'))
if (isRelease && !isWhole) fail('dist/ has no files for browsers: npm run build:wasm says why, then npm run build:ts')
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
if (!isGathered) run('npm', 'run', 'prebuild', '--', ...(isRelease ? [] : ['--addon-only']))
const faults = faultsOf(prebuilds, isGathered ? 'gathered' : isRelease ? 'release' : 'checkout')
if (faults.length > 0) fail(`prebuilds/: ${faults.join('; ')}`)
run('npm', 'pack', '--ignore-scripts', '--pack-destination', folder)
if (isRelease) {
  checkSize(join(prebuilds, 'linux-x64', 'lily_cuda.so'), MOST_BYTES.library)
  checkSize(tarball, MOST_BYTES.tarball)
}
if (isWhole) {
  run('npx', '--no-install', 'publint', '--strict', tarball)
  run('npx', '--no-install', 'attw', tarball)
} else {
  console.log('lily-kernels: publint and attw do not check the tarball, because it has no files for browsers')
}
