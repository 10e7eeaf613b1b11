#!/usr/bin/env node
// Builds CMakeLists.txt into build/Release/lily.node of the current folder, incrementally.
//
// `npm run build:native` and the action in binding.gyp run this script, and prebuildify runs it instead of node-gyp; it
// ignores the node-gyp arguments that prebuildify passes. The addon has the instruction sets that this processor supports,
// and the model of AMX for the tests, so that the benchmark and the tests share one build. --addon-only does not build the
// CUDA library, and --for-bench only if there is a GPU. LILY_CMAKE_ARGS may contain arguments for CMake, separated by spaces.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { noWindowsCompiler, windowsOptions } from './windows-toolchain.js'

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

// CMake's own choice on Windows is Visual Studio, whose compiler does not have the vector types of the kernels.
/** @type {Record<string, string>} */
const GENERATORS =
  process.platform === 'win32'
    ? { ninja: 'Ninja', 'mingw32-make': 'MinGW Makefiles' }
    : { make: 'Unix Makefiles', ninja: 'Ninja' }

/** @type {() => string[]} */
function generatorOptions() {
  if (process.env.CMAKE_GENERATOR) return []
  const command = Object.keys(GENERATORS).find(runs)
  if (command !== undefined) return ['-G', GENERATORS[command]]
  return fail(`${Object.keys(GENERATORS).join(' or ')} was not found: install one of them, or set CMAKE_GENERATOR`)
}

/** @type {() => string[]} */
function compilerOptions() {
  if (process.platform === 'win32') return windowsOptions() ?? fail(noWindowsCompiler)
  const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
  if (!compilers.some(runs)) fail(`no C++ compiler was found (${compilers.join(', ')}): install g++, or set CXX`)
  return []
}

if (!runs('cmake')) fail('cmake was not found: install CMake 3.24 or later')

const isForBench = process.argv.includes('--for-bench')
const isCudaLeftOut =
  process.argv.includes('--addon-only') ||
  (isForBench && !existsSync(join(output, 'lily_cuda.so')) && spawnSync('nvidia-smi', ['-L']).status !== 0)

const system = [...generatorOptions(), ...compilerOptions()]
const options = ['-DLILY_CPU_SETS=NATIVE', ...(process.env.LILY_CMAKE_ARGS ?? '').split(' ').filter(Boolean)]
cmake('-S', root, '-B', build, `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${output}`, ...system, ...options)
const target = isCudaLeftOut ? ['--target', 'lily'] : []
cmake('--build', build, ...target, '--parallel', String(availableParallelism()))

if (isForBench) {
  const cuda = isCudaLeftOut ? 'the CUDA library, because there is no NVIDIA GPU; ' : ''
  console.log(`lily-kernels: not built for the benchmark: ${cuda}WebAssembly (npm run build:all builds it)`)
}
