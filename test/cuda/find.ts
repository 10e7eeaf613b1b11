/** The device of the tests of the CUDA backend. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { path } from '../support/project.js'

type Found = string | Record<string, string>

/** Finds a GPU; without one, the emulator (unless LILY_TEST_GPU is 1); without either, the reason. */
function find(): Found {
  // In a separate process, because the CUDA runtime does not survive the forks of the tests.
  const ask = 'const [, cuda] = require(process.argv[1]).backends(); console.log(cuda.available ? "" : cuda.reason)'
  const { LILY_CUDA_LIBRARY: _, ...env } = process.env
  const args = ['-e', ask, path('build/Release/lily.node')]
  const { status, stdout } = spawnSync(process.execPath, args, { env, encoding: 'utf8' })
  if (status !== 0) return 'the addon is not built; run npm run build:native'
  const reason = stdout.trim()
  if (reason === '') return { LILY_CUDA_LIBRARY: path('build/Release/lily_cuda.so') }
  if (process.env.LILY_TEST_GPU === '1') throw new Error(`LILY_TEST_GPU is 1, but ${reason}`)

  const library = path('build/emulator/lily_cuda.so')
  const noEmulator = `no GPU (${reason}), and no emulator: `
  if (!existsSync(library)) return `${noEmulator}the CUDA library was not built, which requires nvcc of CUDA 13`
  if (!existsSync(path('build/emulator/libcudart.so.13')))
    return `${noEmulator}it was not built; run npm run build:emulator`
  // Memory in the pool and leftovers of a stopped test are not leaks; test/cuda/emulated.test.ts checks for leaks. As many
  // multiprocessors as a GPU has, so that tokens are split over blocks. The self-test at the first use of the device, in
  // each process, takes the emulator long; test/cuda/self-test.test.ts turns it on.
  return {
    LILY_CUDA_LIBRARY: library,
    LILY_TEST_EMULATED: '1',
    LILY_EMULATOR_LEAKS: '0',
    LILY_EMULATOR_SMS: '64',
    LILY_SELF_TEST: '0',
  }
}

/** The environment with the device, or why there is none. One process looks for it, for all projects that ask. */
export function findCuda(): Found {
  process.env.LILY_TEST_CUDA ??= JSON.stringify(find())
  return JSON.parse(process.env.LILY_TEST_CUDA) as Found
}

/** Likewise of the emulator alone, with an architecture and a schedule. */
export function findEmulator(LILY_EMULATOR_ARCH: string, LILY_EMULATOR_SEED: string): Found {
  const found = findCuda()
  if (typeof found === 'string') return found
  if (found.LILY_TEST_EMULATED !== '1') return 'a GPU runs the code for itself alone; the emulator runs that of others'
  return { ...found, LILY_EMULATOR_ARCH, LILY_EMULATOR_SEED }
}
