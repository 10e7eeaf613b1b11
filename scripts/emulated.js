#!/usr/bin/env node
// Runs a command with the CUDA emulator instead of the CUDA runtime: npm run emulated -- COMMAND...
//
// emulator/README.md describes the emulator and the LILY_EMULATOR_* variables, which the command inherits.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folder = join(root, 'build', 'emulator')
// The CUDA backend as PTX and with the shared runtime, which the emulator requires.
const backend = join(folder, 'lily_cuda.so')

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

const [command, ...args] = process.argv.slice(2)
if (!command) fail('usage: npm run emulated -- COMMAND...')
if (!existsSync(join(folder, 'libcudart.so.13'))) {
  fail(
    `the emulator is not built: ${join(folder, 'libcudart.so.13')} is missing. With the headers of CUDA 13 installed, run\n` +
      '  cmake -S emulator -B build/emulator && cmake --build build/emulator --parallel 2',
  )
}

const env = { ...process.env }
env.LD_LIBRARY_PATH = [folder, env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter)
if (!env.LILY_CUDA_LIBRARY && existsSync(backend)) env.LILY_CUDA_LIBRARY = backend

const { error, signal, status } = spawnSync(command, args, { env, stdio: 'inherit' })
if (error) fail(`${command}: ${error.message}`)
// The exit code that a shell reports.
process.exitCode = signal ? 128 + constants.signals[signal] : (status ?? 1)
