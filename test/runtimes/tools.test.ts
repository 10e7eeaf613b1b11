/**
 * The packed package in test runners, bundlers and servers: it runs, or says what to set. The table of docs/platforms.md has
 * the results.
 *
 * @long
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Installed, installPackage } from '../support/installed.js'
import { installTools, WORKED } from '../support/tools.js'

const BUNDLED =
  'a bundler has copied lily-kernels into another file, away from its addon and its WebAssembly; leave the'

let installed: Installed
let tools: string
beforeAll(() => {
  installed = installPackage()
  tools = installTools(installed)
}, 600_000)
afterAll(() => installed?.remove())

/** Runs a program of Node.js in the folder of the tools. */
function node(args: readonly string[], variables: NodeJS.ProcessEnv = {}) {
  // The test runner of this process is another one than those that are tested.
  const { VITEST: _, NODE_ENV: __, ...environment } = installed.environment
  const env = { ...environment, PATH: process.env.PATH, NEXT_TELEMETRY_DISABLED: '1', ...variables }
  return spawnSync(process.execPath, args, { cwd: tools, env, encoding: 'utf8', timeout: 280_000, maxBuffer: 2 ** 26 })
}

describe('Jest', () => {
  const body = (check: string) => `test('work', () => { expect(JSON.parse(work())).toEqual(${check}) })`
  const jest = (file: string, source: string, options: readonly string[], variables?: NodeJS.ProcessEnv) => {
    writeFileSync(join(tools, file), `${source}\n${body(JSON.stringify(WORKED))}\n`)
    const args = ['node_modules/jest/bin/jest.js', '--transform', '{}', '--testMatch', `**/${file}`, ...options]
    const { status, stderr } = node(args, variables)
    expect(status, stderr).toBe(0)
  }

  // `import` becomes `require` as by a compiler of TypeScript.
  test.each(['node', 'jsdom'])('CommonJS, environment %s', (environment) => {
    const source = readFileSync(join(tools, 'work.mjs'), 'utf8')
      .replaceAll(/import \{(.*)\} from ('.*')/g, (_, names: string, from: string) => {
        return `const {${names.replaceAll(' as ', ': ')}} = require(${from})`
      })
      .replace('export ', '')
    jest(`${environment}.test.cjs`, source, ['--env', environment])
  })

  test('ES modules', () => {
    jest('esm.test.mjs', "import { work } from './work.mjs'", [], { NODE_OPTIONS: '--experimental-vm-modules' })
  })
})

test('vitest', () => {
  const source = `import { expect, test } from 'vitest'
import { work } from './work.mjs'
test('work', () => { expect(JSON.parse(work())).toEqual(${JSON.stringify(WORKED)}) })`
  writeFileSync(join(tools, 'vitest.test.mjs'), source)
  const { status, stdout, stderr } = node(['node_modules/vitest/vitest.mjs', 'run', 'vitest.test.mjs'])
  expect(status, stdout + stderr).toBe(0)
})

describe('bundles', () => {
  const bundlers: [tool: string, format: string, file: string][] = [
    ['esbuild', 'esm', 'esbuild.mjs'],
    ['esbuild', 'cjs', 'esbuild.cjs'],
    ['rollup', 'es', 'rollup.mjs'],
    ['rollup', 'cjs', 'rollup.cjs'],
    ['webpack', 'cjs', 'webpack.cjs'],
    ['vite', 'es', 'main.mjs'],
  ]
  const bundle = (tool: string, format: string, file: string, external: string) => {
    const path = join('out', `${tool}-${external}`, file)
    const built = node(['bundle.mjs', tool, format, path, external])
    expect(built.status, built.stderr).toBe(0)
    return node([path])
  }

  test.each(bundlers)('%s as %s, with the package external', (...bundler) => {
    const { stdout, stderr } = bundle(...bundler, 'external')
    expect(stdout, stderr).not.toBe('')
    expect(JSON.parse(stdout)).toEqual(WORKED)
  })

  test.each(bundlers)('%s as %s, with the package in it, says what to set', (...bundler) => {
    const { status, stderr } = bundle(...bundler, 'inside')
    expect(status).toBe(1)
    expect(stderr).toContain(BUNDLED)
  })
})

describe('Next.js', () => {
  /** A project whose page is made on the server, for each request. */
  function project(name: string, config: string): string {
    const folder = join(tools, name)
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(join(folder, 'app'), { recursive: true })
    symlinkSync('../node_modules', join(folder, 'node_modules'))
    const files = {
      'package.json': '{ "private": true }',
      'next.config.js': `module.exports = ${config}`,
      'app/layout.jsx': 'export default function Layout({ children }) { return <html><body>{children}</body></html> }',
      'app/page.jsx': `import { work } from '../../work.mjs'
export const dynamic = 'force-dynamic'
export default function Page() { return <p>{Object.values(JSON.parse(work())).join(' ')}</p> }`,
    }
    for (const [path, text] of Object.entries(files)) writeFileSync(join(folder, path), text)
    return folder
  }
  const next = () => join(tools, 'node_modules', 'next', 'dist', 'bin', 'next')

  test('with serverExternalPackages', async () => {
    const folder = project('next-external', "{ serverExternalPackages: ['lily-kernels'] }")
    const { status, stdout, stderr } = node([next(), 'build', folder])
    expect(status, stdout + stderr).toBe(0)
    const port = await freePort()
    const server = spawn(process.execPath, [next(), 'start', folder, '-p', String(port)], { stdio: 'ignore' })
    try {
      expect(await fetched(`http://localhost:${port}`)).toContain(`<p>${Object.values(WORKED).join(' ')}</p>`)
    } finally {
      server.kill()
    }
  })

  test('without it says what to set', () => {
    const { status, stdout, stderr } = node([next(), 'build', project('next-inside', '{}')])
    expect(status).not.toBe(0)
    expect(stdout + stderr).toContain(BUNDLED)
    expect(stdout + stderr).toContain('serverExternalPackages of Next.js')
  })
})

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, () => {
      const { port } = server.address() as { port: number }
      server.close(() => {
        resolve(port)
      })
    })
  })
}

/** The answer of a server that starts. */
async function fetched(url: string): Promise<string> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await (await fetch(url)).text()
    } catch (error) {
      if (attempt > 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }
}
