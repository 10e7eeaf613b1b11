/** Runs the programs of test/cuda/programs in child processes. They import the built package by its name. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../cuda/programs/', import.meta.url))

export interface Ended {
  code: number
  stdout: string
  text: string
}

/** `settings` are environment variables of the emulator without the prefix LILY_EMULATOR_. */
export function runProgram(
  name: string,
  settings: Record<string, string> = {},
  environment: Record<string, string> = {},
): Promise<Ended> {
  const emulator = Object.fromEntries(
    Object.entries({ LEAKS: '1', ...settings }).map(([key, value]) => [`LILY_EMULATOR_${key}`, value]),
  )
  const env = { ...process.env, ...emulator, ...environment }
  return new Promise((resolve) => {
    execFile(process.execPath, ['--expose-gc', name], { cwd: folder, env }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
      resolve({ code, stdout, text: `${stdout}${stderr}${error?.signal ?? ''}` })
    })
  })
}
