#!/usr/bin/env node
// Builds native/wasm into build/wasm/*.wasm, incrementally. Without a toolchain for WebAssembly it prints one line and
// builds nothing.
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const build = join(root, 'build', 'wasm', 'cmake')

const COMPILERS = ['clang++-21', 'clang++-20', 'clang++-19', 'clang++']
const PACKAGES = 'clang-19 lld-19 wasi-libc libc++-19-dev-wasm32 libclang-rt-19-dev-wasm32'

/** @type {(compiler: string) => boolean} */
function links(compiler) {
  const options = ['--target=wasm32-wasi', '-std=c++20', '-fno-exceptions', '-mexec-model=reactor', '-x', 'c++', '-']
  const input = '#include <atomic>\n#include <string>\nstd::string text;\n'
  return (
    spawnSync(compiler, [...options, '-o', '/dev/null'], { input, stdio: ['pipe', 'ignore', 'ignore'] }).status === 0
  )
}

/** @type {(...args: string[]) => void} */
function cmake(...args) {
  if (spawnSync('cmake', args, { stdio: 'inherit' }).status === 0) return
  console.error('lily-kernels: the build of WebAssembly failed; see the output above')
  process.exit(1)
}

const compiler = COMPILERS.find(links)
if (compiler === undefined) {
  console.log(
    `lily-kernels: WebAssembly is not built: no ${COMPILERS.join(', ')} that links for wasm32-wasi was found ` +
      `(Debian: apt install ${PACKAGES})`,
  )
  process.exit()
}
const toolchain = join(root, 'native', 'wasm', 'toolchain.cmake')
const options = [`-DCMAKE_TOOLCHAIN_FILE=${toolchain}`, `-DCMAKE_CXX_COMPILER=${compiler}`]
cmake('-S', join(root, 'native', 'wasm'), '-B', build, ...options)
cmake('--build', build, '--parallel', String(availableParallelism()))
