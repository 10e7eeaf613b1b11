#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/lily.<libc>.node, which the published package carries instead of an install script,
// and beside it lily_cuda.so for all architectures, which takes nvcc and many minutes; --addon-only leaves it out.
//
// prebuildify strips and moves what it finds in build/Release; it gets a folder of its own for that, so that the addon
// in the checkout, which a running program may have mapped, stays as it is.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { architectures } from './cuda-architectures.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stage = join(root, 'build', 'prebuild')
const builder = join(root, 'scripts', 'build-native.js')
const prebuildify = join(root, 'node_modules', 'prebuildify', 'bin.js')
mkdirSync(stage, { recursive: true })

const isAddonOnly = process.argv.includes('--addon-only')
const cuda = isAddonOnly
  ? ['-DLILY_CUDA=OFF']
  : ['-DLILY_CUDA=ON', `-DLILY_CUDA_ARCHITECTURES=${architectures.join(';')}`]
const env = { ...process.env, LILY_CMAKE_ARGS: [process.env.LILY_CMAKE_ARGS ?? '', ...cuda].join(' ') }
// What a build with it has left would be packed.
if (isAddonOnly) {
  for (const folder of [
    join('build', 'prebuild', 'build', 'Release'),
    join('prebuilds', `${process.platform}-${process.arch}`),
  ]) {
    rmSync(join(root, folder, 'lily_cuda.so'), { force: true })
  }
}

const options = ['--napi', '--strip', '--tag-libc', '--name', 'lily']
const { status } = spawnSync(
  process.execPath,
  [prebuildify, ...options, '--cwd', stage, '--out', root, '--node-gyp', builder],
  { env, stdio: 'inherit' },
)
process.exitCode = status ?? 1
