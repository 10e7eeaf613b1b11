#!/usr/bin/env node
// Packs the package as it would be published into build/package/ and checks the tarball with publint and attw. Requires
// dist/ (npm run build:ts). Builds only the prebuilt addon and, with --release, the CUDA library.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'package')

/** @type {(command: string, ...args: string[]) => void} */
function run(command, ...args) {
  console.log(`> ${command} ${args.join(' ')}`)
  if (spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status !== 0) process.exit(1)
}

/** @type {unknown} */
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { name, version } = /** @type {{ name: string, version: string }} */ (manifest)
const isRelease = process.argv.includes('--release')
const tarball = join(folder, `${name}-${version}.tgz`)

if (isRelease && !existsSync(join(root, 'dist', 'browser', 'wasm.js'))) {
  console.error('lily-kernels: dist/ has no files for browsers: npm run build:wasm says why, then npm run build:ts')
  process.exit(1)
}
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
run('npm', 'run', 'prebuild', '--', ...(isRelease ? [] : ['--addon-only']))
run('npm', 'pack', '--ignore-scripts', '--pack-destination', folder)
run('npx', '--no-install', 'publint', '--strict', tarball)
run('npx', '--no-install', 'attw', tarball)
