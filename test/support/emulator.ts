/** Builds and runs the emulator's test programs. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'build/emulator')

export interface Run {
  code: number | null
  text: string
}

function spawn(command: string, args: string[], environment: Record<string, string> = {}): Run {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...environment },
    timeout: 880_000,
  })
  return { code: status, text: `${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}` }
}

/** Builds everything; returns the reason if the programs of kernels/ cannot be built. Throws if a build fails. */
export function buildEmulator(): string | undefined {
  const configured = spawn('cmake', ['-S', 'emulator', '-B', 'build/emulator'])
  if (configured.code !== 0) throw new Error(`cmake: ${configured.text}`)
  const built = spawn('cmake', ['--build', 'build/emulator', '--target', 'emulator_tests', '--parallel', '2'])
  if (built.code !== 0) throw new Error(`building the emulator: ${built.text}`)
  const missing = configured.text.split('\n').filter((line) => line.includes('Building without'))
  return missing.length > 0 ? missing.join('; ').replaceAll('-- ', '') : undefined
}

/** Runs a program of kernels/ on the emulator; `settings` are LILY_EMULATOR_* variables without the prefix. */
export function runKernel(program: string, args: string[], settings: Record<string, string> = {}): Run {
  const path = join(folder, 'kernels', program)
  if (!existsSync(path)) throw new Error(`${path} was not built`)
  const environment = Object.fromEntries(
    Object.entries(settings).map(([name, value]) => [`LILY_EMULATOR_${name}`, value]),
  )
  return spawn(path, args, { LD_LIBRARY_PATH: folder, ...environment })
}

export function runInstructionTests(): Run {
  return spawn(join(folder, 'tests/instruction_tests'), [])
}

/** Runs scripts/compare-emulator.sh, which needs no GPU with --emulated-twice. */
export function compareEmulator(args: string[], ARCH: string): Run {
  return spawn('sh', ['scripts/compare-emulator.sh', ...args], { LILY_EMULATOR_ARCH: ARCH })
}
