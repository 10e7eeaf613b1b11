#!/usr/bin/env node
// Builds CMakeLists.txt into build/Release/lily.node of the current folder, incrementally.
//
// `npm run build:native` and the action in binding.gyp run this script, and prebuildify runs it instead of node-gyp; it
// ignores the node-gyp arguments that prebuildify passes. --addon-only does not build the CUDA library. LILY_CMAKE_ARGS
// may contain arguments for CMake, separated by spaces.
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const build = resolve('build/cmake')
const output = resolve('build/Release')

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/** @type {(command: string) => boolean} */
function runs(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
}

/** @type {(...args: string[]) => void} */
function cmake(...args) {
  // A parent make (node-gyp's) would pass on a job server that CMake's make cannot reach.
  const env = { ...process.env }
  for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL']) Reflect.deleteProperty(env, name)
  if (spawnSync('cmake', args, { env, stdio: 'inherit' }).status !== 0)
    fail('the native build failed; see the output above')
}

if (!runs('cmake')) fail('cmake was not found: install CMake 3.24 or later')
const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
if (!compilers.some(runs)) fail(`no C++ compiler was found (${compilers.join(', ')}): install g++, or set CXX`)

const options = (process.env.LILY_CMAKE_ARGS ?? '').split(' ').filter(Boolean)
cmake('-S', root, '-B', build, `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${output}`, ...options)
const target = process.argv.includes('--addon-only') ? ['--target', 'lily'] : []
cmake('--build', build, ...target, '--parallel', String(availableParallelism()))
