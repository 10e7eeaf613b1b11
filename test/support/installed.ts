/** The package as users get it: packed, checked by publint and attw, installed without a compiler and without scripts. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import { findProgram } from './find-program.js'

export interface Installed {
  /** A project that depends on the package. */
  project: string
  /** The package in its node_modules. */
  folder: string
  /** Environment variables of a machine with node, npm and a shell only. */
  environment: NodeJS.ProcessEnv
  /** Writes a file of the project, runs it and returns its output. */
  run: (program: string, args: readonly string[], file: string, source: string) => string
  remove: () => void
}

/**
 * Builds the prebuilt addons, which takes a minute or two, and throws on any finding of publint or attw. With
 * LILY_TEST_RELEASE=1 it also builds the CUDA library for all architectures, which takes many minutes. With LILY_TEST_PACKED=1
 * it takes the tarball that `npm run check:package` has just made.
 */
export function installPackage(): Installed {
  const release = process.env.LILY_TEST_RELEASE === '1' ? ['--', '--release'] : []
  if (process.env.LILY_TEST_PACKED !== '1')
    execFileSync('npm', ['run', 'check:package', ...release], { cwd: packageRoot, stdio: 'inherit' })
  const temporary = mkdtempSync(join(tmpdir(), 'lily-package-'))
  const project = join(temporary, 'project')
  const environment = bareEnvironment(join(temporary, 'bin'))
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{ "private": true }\n')
  const tarballs = join(packageRoot, 'build', 'package')
  const [tarball] = readdirSync(tarballs)
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline']
  execFileSync('npm', ['install', ...options, join(tarballs, tarball)], {
    cwd: project,
    env: environment,
    stdio: 'inherit',
  })
  return {
    project,
    folder: join(project, 'node_modules', 'lily-kernels'),
    environment,
    run: (program, args, file, source) => {
      writeFileSync(join(project, file), source)
      const timeout = 240_000 // ends a program that waits forever
      return execFileSync(program, [...args, file], { cwd: project, env: environment, encoding: 'utf8', timeout })
    },
    remove: () => rmSync(temporary, { recursive: true, force: true }),
  }
}

function bareEnvironment(bin: string): NodeJS.ProcessEnv {
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, 'node'))
  // npx runs programs through a shell.
  for (const program of ['npm', 'npx', 'sh']) {
    const path = findProgram(program)
    if (path === undefined) throw new Error(`${program} is not on PATH`)
    symlinkSync(path, join(bin, program))
  }
  // The variables that `npm test` sets for its children would point npm, or the package, to this checkout.
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(npm_(package|lifecycle|command|execpath|config_.*prefix$)|LILY_|NODE_OPTIONS$)/i.test(name),
  )
  return { ...Object.fromEntries(inherited), PATH: bin, PREBUILDS_ONLY: '1' }
}
