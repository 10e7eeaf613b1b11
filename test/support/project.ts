/** What the projects of vitest have in common. Each is declared in a vitest*.config.ts beside its tests. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineProject, type UserWorkspaceConfig } from 'vitest/config'

const root = fileURLToPath(new URL('../..', import.meta.url))
export const path = (relative: string) => join(root, relative)

export interface Options {
  /**
   * Looks for what the tests require, where they run: a text says what is missing, and a single test is then skipped with it.
   * Otherwise further variables of the environment.
   */
  needs?: () => string | Record<string, string>
  env?: Record<string, string>
  setupFiles?: string[]
  external?: RegExp[]
  /** Modules in place of those of lib/, which tests import by name or by path. */
  alias?: { find: RegExp; replacement: string }[]
}

/** The files below test/. */
const files = readdirSync(path('test'), { recursive: true, encoding: 'utf8' }).map((file) => file.replaceAll(sep, '/'))

/** The names of all projects: test/wasm/vitest.config.ts declares `wasm`, and vitest.unshared.config.ts there `unshared`. */
export const names = files.flatMap((file) => {
  const [, folder, name] = /^(\w+)\/vitest(?:\.(\w+))?\.config\.ts$/.exec(file) ?? []
  return folder === undefined ? [] : [name ?? folder]
})

/**
 * What the first comment of a test file says: `@project cpu wasm` names the projects that run it, by default the one of its
 * folder, otherwise cpu. `@long` starts it first, and leaves it out of `npm run test:cpu`.
 *
 * @throws Error for a project that no file declares
 */
export function pragmas(file: string): { projects: string[]; isLong: boolean } {
  const [comment = ''] = /^\/\*\*.*?\*\//s.exec(readFileSync(path(`test/${file}`), 'utf8')) ?? []
  const [folder = ''] = file.split('/')
  const [, named = names.includes(folder) ? folder : 'cpu'] = /@project ([\w ]+)/.exec(comment) ?? []
  const projects = named.trim().split(/ +/)
  const unknown = projects.find((name) => !names.includes(name))
  if (unknown !== undefined) {
    throw new Error(
      `test/${file}: no test/*/vitest*.config.ts declares the project ${unknown}; there are ${names.join(', ')}`,
    )
  }
  return { projects, isLong: /@long\b/.test(comment) }
}

function filesOf(project: string): string[] {
  const tests = files.filter((file) => file.endsWith('.test.ts')).map((file) => ({ file, ...pragmas(file) }))
  const isDaily = process.env.LILY_TEST_DAILY === '1'
  return tests.flatMap(({ file, projects, isLong }) =>
    projects.includes(project) && !(isDaily && isLong) ? [`test/${file}`] : [],
  )
}

/** The declaration of a project. */
export function project(name: string, options: Options = {}): UserWorkspaceConfig {
  const { needs, env, setupFiles, external } = options
  const choose = () => {
    const found = needs?.() ?? {}
    return typeof found === 'string'
      ? { include: ['test/support/missing.ts'], env: { LILY_TEST_MISSING: found } }
      : { include: filesOf(name), env: found, setupFiles }
  }
  const alias = [
    { find: /^lily-kernels$/, replacement: path('lib/index.ts') },
    { find: /^lily-kernels\/(tfjs|tfjs-layers|webgpu|mpi)$/, replacement: path('lib/$1/index.ts') },
  ]
  return defineProject({
    resolve: { alias: options.alias ?? alias },
    // The hook runs for the projects of this run only.
    plugins: [{ name: 'lily:files', config: { order: 'post', handler: () => ({ test: choose() }) } }],
    test: {
      name,
      root,
      // The addon reads its environment once per process, and the sanitizers require processes.
      pool: 'forks',
      // Only a test that hangs exceeds it: emulated kernels, sanitizers and shaders on the CPU take seconds each.
      testTimeout: 300_000,
      hookTimeout: 300_000,
      server: { deps: { external } },
      // The environment excludes GPUs on every machine.
      env: { LILY_TEST_BACKEND: 'cpu', LILY_CUDA_LIBRARY: 'none', ...env },
    },
  })
}
