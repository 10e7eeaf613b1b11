/**
 * Bundles test files with the sources of lib/ into programs for Node.js of Windows, which has the file system, child
 * processes and workers that they use. The program must lie in this checkout, whose addon for Windows it loads.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build, type Plugin } from 'esbuild'
import { packageRoot } from '../../lib/binding/root.js'
import { windowsUrl } from './wine.js'

const test = join(packageRoot, 'test')
const here = join(test, 'windows')

/**
 * Writes the program, which prints an array of the outcomes of all tests.
 *
 * @param suite name of a test file below test/, without its ending, or of a folder of such files
 * @param pattern of the names of the tests that run
 */
export async function bundleSuite(suite: string, pattern: RegExp, outfile: string): Promise<void> {
  const files = suitesIn(suite).map((name) => `'${name}': () => import('./${name}.test.ts')`)
  await build({
    stdin: {
      contents: `
        import { run } from './support/portable/run.ts'
        const outcomes = await run({ ${files.join()} }, ${String(pattern)})
        console.log(JSON.stringify(outcomes))
        process.exit(0)`,
      resolveDir: test,
    },
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    // Messages name classes.
    keepNames: true,
    outfile,
    plugins: [substitutes],
    // CommonJS of the packages that tests use.
    banner: { js: "const require = process.getBuiltinModule('node:module').createRequire(import.meta.url)" },
    logLevel: 'error',
  })
}

function suitesIn(suite: string): string[] {
  if (suite.includes('/')) return [suite]
  const names = readdirSync(join(test, suite)).filter((name) => name.endsWith('.test.ts'))
  return names.map((name) => `${suite}/${name.replace('.test.ts', '')}`)
}

const substitutes: Plugin = {
  name: 'windows',
  setup(bundle) {
    bundle.onResolve({ filter: /^vitest$/ }, () => ({ path: join(here, 'vitest.ts') }))
    // That one bundles the command line first.
    bundle.onResolve({ filter: /\/support\/cli\.js$/ }, () => ({ path: join(here, 'cli.ts') }))
    // Tests find their fixtures by it.
    bundle.onLoad({ filter: /\/test\/.*\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replaceAll('import.meta.url', JSON.stringify(windowsUrl(path))),
      loader: 'ts',
      resolveDir: dirname(path),
    }))
  },
}
