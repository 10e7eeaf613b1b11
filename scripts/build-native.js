#!/usr/bin/env node
// Builds CMakeLists.txt into build/Release/lily.node of the current folder; only what is out of date is compiled again.
//
// `npm run build:native` and binding.gyp's action run it, and prebuildify runs it in node-gyp's place (it then gets
// node-gyp's arguments and heeds none). With --addon-only the CUDA library is left as it is. LILY_CMAKE_ARGS may hold arguments for CMake, separated by spaces.
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
function answers(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
}

/** @type {(...args: string[]) => void} */
function cmake(...args) {
  // A make above us (node-gyp's) would lend CMake's make a job server that it cannot reach.
  const env = { ...process.env }
  for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL']) Reflect.deleteProperty(env, name)
  if (spawnSync('cmake', args, { env, stdio: 'inherit' }).status !== 0) fail('the native build failed, see above')
}

if (!answers('cmake')) fail('cmake was not found: install CMake 3.24 or later')
const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
if (!compilers.some(answers)) fail(`no C++ compiler was found (${compilers.join(', ')}): install g++, or set CXX`)

const options = (process.env.LILY_CMAKE_ARGS ?? '').split(' ').filter(Boolean)
cmake('-S', root, '-B', build, `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${output}`, ...options)
const target = process.argv.includes('--addon-only') ? ['--target', 'lily'] : []
cmake('--build', build, ...target, '--parallel', String(availableParallelism()))
