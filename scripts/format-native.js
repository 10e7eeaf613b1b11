#!/usr/bin/env node
// Formats native/, emulator/ and bench/counters/model/ in place; --check only reports files that are not formatted. Requires
// clang-format 19, because other versions format some code differently; without it only a run of CI fails.
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const files = ['native', 'emulator', 'bench/counters/model'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|cc|cu|cuh)$/.test(name))
    .map((name) => join(folder, name)),
)

const clangFormat = ['clang-format-19', 'clang-format'].find((command) =>
  spawnSync(command, ['--version'], { encoding: 'utf8' }).stdout?.includes('version 19.'),
)
if (clangFormat) {
  const mode = process.argv.includes('--check') ? ['--dry-run', '-Werror'] : ['-i']
  process.exitCode = spawnSync(clangFormat, [...mode, ...files], { cwd: root, stdio: 'inherit' }).status ?? 1
} else {
  console.log(
    'lily-kernels: native/, emulator/ and bench/counters/model/ were not formatted: clang-format 19 was not found (Debian: apt install clang-format-19)',
  )
  if (process.env.CI) process.exitCode = 1
}
