/** The package as users get it: packed, checked by publint and attw, installed where there is no compiler and no script runs. */
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
  /** Of a machine that has node, npm and a shell and nothing else. */
  environment: NodeJS.ProcessEnv
  /** Writes a file of the project and runs it; what it prints. */
  run: (program: string, args: readonly string[], file: string, source: string) => string
  remove: () => void
}

/**
 * Takes a minute or two: the prebuilt addons are built, and any finding of publint or attw throws. With
 * LILY_TEST_RELEASE=1 the CUDA library of all architectures too, which takes many.
 */
export function installPackage(): Installed {
  const release = process.env.LILY_TEST_RELEASE === '1' ? ['--', '--release'] : []
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
      return execFileSync(program, [...args, file], { cwd: project, env: environment, encoding: 'utf8' })
    },
    remove: () => rmSync(temporary, { recursive: true, force: true }),
  }
}

function bareEnvironment(bin: string): NodeJS.ProcessEnv {
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, 'node'))
  // npx runs what it finds through a shell.
  for (const program of ['npm', 'npx', 'sh']) {
    const path = findProgram(program)
    if (path === undefined) throw new Error(`${program} is not on PATH`)
    symlinkSync(path, join(bin, program))
  }
  // What `npm test` tells its children about this checkout would lead their npm, or the package, back into it.
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(npm_(package|lifecycle|command|execpath|config_.*prefix$)|LILY_|NODE_OPTIONS$)/i.test(name),
  )
  return { ...Object.fromEntries(inherited), PATH: bin, PREBUILDS_ONLY: '1' }
}
