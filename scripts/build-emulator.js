#!/usr/bin/env node
// Builds emulator/ into build/emulator/ where nvcc is: what runs on the emulator is compiled by it.
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const build = join(root, 'build', 'emulator')
const nvcc = process.env.CUDACXX ?? 'nvcc'

/** @type {(...args: string[]) => void} */
function cmake(...args) {
  if (spawnSync('cmake', args, { stdio: 'inherit' }).status !== 0) process.exit(1)
}

if (process.env.LILY_CMAKE_ARGS?.includes('-DLILY_CUDA=OFF')) {
  console.log('lily-kernels: the emulator is not built: LILY_CUDA=OFF')
} else if (spawnSync(nvcc, ['--version']).status !== 0) {
  console.log(`lily-kernels: the emulator is not built: ${nvcc} was not found; set CUDACXX to the nvcc of CUDA 13`)
} else {
  cmake('-S', join(root, 'emulator'), '-B', build)
  cmake('--build', build, '--parallel', String(availableParallelism()))
}
