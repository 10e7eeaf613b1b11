/** Bundlers and test runners from npm, at exactly these versions, with the packed package in the same node_modules. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Installed } from './installed.js'
import { installOnce } from './npm-install.js'

const TOOLS = {
  '@rollup/plugin-commonjs': '29.0.3',
  '@rollup/plugin-node-resolve': '16.0.3',
  esbuild: '0.28.2',
  jest: '30.5.2',
  'jest-environment-jsdom': '30.5.2',
  next: '16.4.6',
  react: '19.3.1',
  'react-dom': '19.3.1',
  rollup: '4.68.8',
  vite: '8.3.8',
  vitest: '4.1.12',
  webpack: '5.113.0',
}

/** Two modules that all tools get: what a program does with the package, and the program. */
const WORK = `
import { lilyForward, tensor, Tensor } from 'lily-kernels'
import { Tensor as OfWebGpu } from 'lily-kernels/webgpu'
export function work() {
  const operands = {
    x: tensor([1, 2, 3, 4], [2, 2]),
    a: tensor([1, 1], [1, 2]),
    router: tensor([0, 0], [2, 1]),
    b: tensor([1, 0, 0, 2], [2, 1, 2]),
  }
  const { y } = lilyForward(operands, { scaling: 2 })
  return JSON.stringify({ y: [...y.data], isOneCopy: Tensor === OfWebGpu })
}
`

/** What `work` returns. */
export const WORKED = { y: [3, 6, 7, 14], isOneCopy: true }

/** Bundles main.mjs: node bundle.mjs TOOL FORMAT FILE, and `external` to leave the package out. */
const BUNDLE = `
import { dirname, resolve } from 'node:path'
const [tool, format, file, external] = process.argv.slice(2)
const names = external === 'external' ? ['lily-kernels', 'lily-kernels/webgpu'] : []
if (tool === 'esbuild') {
  const { build } = await import('esbuild')
  const options = { bundle: true, platform: 'node', external: names, logLevel: 'error' }
  await build({ ...options, entryPoints: ['main.mjs'], format, outfile: file })
}
if (tool === 'rollup') {
  const { rollup } = await import('rollup')
  const { default: nodeResolve } = await import('@rollup/plugin-node-resolve')
  const { default: commonjs } = await import('@rollup/plugin-commonjs')
  const bundle = await rollup({ input: 'main.mjs', external: names, plugins: [nodeResolve(), commonjs()] })
  await bundle.write({ file, format })
}
if (tool === 'webpack') {
  const { default: webpack } = await import('webpack')
  const externals = Object.fromEntries(names.map((name) => [name, 'commonjs ' + name]))
  const output = { path: dirname(resolve(file)), filename: 'webpack.cjs' }
  const stats = await new Promise((done, fail) => {
    webpack({ mode: 'production', target: 'node', entry: resolve('main.mjs'), output, externals }, (error, result) => {
      if (error) fail(error)
      else done(result)
    })
  })
  if (stats.hasErrors() || stats.hasWarnings()) throw new Error(stats.toString())
}
if (tool === 'vite') {
  const { build } = await import('vite')
  const ssr = external === 'external' ? {} : { noExternal: true }
  await build({ configFile: false, logLevel: 'error', build: { ssr: 'main.mjs', outDir: dirname(file) }, ssr })
}
`

/**
 * Installs the tools, and the package beside them. Returns the folder, which is outside of this checkout: tools read the
 * configuration of the folders above their own.
 */
export function installTools({ project, folder }: Installed): string {
  const installed = installOnce(
    'tools',
    Object.entries(TOOLS).map(([name, version]) => `${name}@${version}`),
  )
  const tools = join(dirname(project), 'tools')
  mkdirSync(tools)
  const files = ['package.json', 'package-lock.json', 'node_modules'].map((name) => join(installed, name))
  // Hard links take no time, but not from one file system to another.
  if (spawnSync('cp', ['-al', ...files, tools]).status !== 0) execFileSync('cp', ['-a', ...files, tools])
  const copy = join(tools, 'node_modules', 'lily-kernels')
  cpSync(folder, copy, { recursive: true })
  for (const name of ['pure-rand', 're2js']) {
    cpSync(join(project, 'node_modules', name), join(copy, 'node_modules', name), { recursive: true })
  }
  writeFileSync(join(tools, 'work.mjs'), WORK)
  writeFileSync(join(tools, 'main.mjs'), "import { work } from './work.mjs'\nconsole.log(work())\n")
  writeFileSync(join(tools, 'bundle.mjs'), BUNDLE)
  return tools
}
