/** An addon that runs the AMX kernels on emulated tile registers (test/programs/tiles.cc). */
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { addonObjects } from '../../bench/passes/build.js'
import { packageRoot } from '../../lib/binding/root.js'

/**
 * Links the addon in `folder`, and returns the environment variables of a process that uses it. Or returns the reason why
 * it cannot be linked.
 */
export function emulatedTiles(folder: string): Record<string, string> | string {
  if (process.env.LILY_TEST_SANITIZER !== undefined) return 'the addon with sanitizers does not have the AMX kernels'
  const given = addonObjects().filter((file) => !file.endsWith('/amx/permission.cc.o'))
  if (!given.some((file) => file.endsWith('/kernels_amx.cc.o')))
    return 'the addon was not built here, or without the AMX kernels'
  const release = join(folder, 'build/Release')
  mkdirSync(release, { recursive: true })
  const native = join(packageRoot, 'native')
  const source = join(packageRoot, 'test/programs/tiles.cc')
  const flags = ['-std=c++20', '-O2', '-Wall', '-Wextra', '-Werror', '-fvisibility=hidden']
  const linked = ['-shared', '-fPIC', '-Wl,-z,nodelete', `-I${native}`, source, ...given, '-ldl', '-pthread']
  execFileSync(process.env.CXX ?? 'g++', [...flags, ...linked, '-o', join(release, 'lily.node')])
  // The addon is looked for there instead of in the package.
  return { LILY_KERNELS_PREBUILD: folder }
}
