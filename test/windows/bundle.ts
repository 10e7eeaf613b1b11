/**
 * Bundles test files with the sources of lib/ into programs for Node.js of Windows, which has the file system, child
 * processes and workers that they use. The program must lie in this checkout, whose addon for Windows it loads.
 */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build, type Plugin } from 'esbuild'
import { packageRoot } from '../../lib/binding/root.js'
import { windowsUrl } from './wine.js'

const test = join(packageRoot, 'test')
const here = join(test, 'windows')

/**
 * Writes the program, which prints an array of the outcomes of all tests.
 *
 * @param suite name of a test file below test/, without its ending
 * @param pattern of the names of the tests that run
 */
export async function bundleSuite(suite: string, pattern: RegExp, outfile: string): Promise<void> {
  await build({
    stdin: {
      contents: `
        import { run } from './support/portable/run.ts'
        const outcomes = await run({ '${suite}': () => import('./${suite}.test.ts') }, ${String(pattern)})
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
