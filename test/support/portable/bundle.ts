/**
 * Bundles the golden cases and the modes to one file that runs in a page and in every runtime, and imports `lily-kernels`
 * by its name.
 */
import { deepEqual, ok } from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { build, type Plugin } from 'esbuild'
import { packageRoot } from '../../../lib/binding/root.js'
import type { Outcome } from './run.js'

const test = join(packageRoot, 'test')
const golden = join(test, 'fixtures', 'golden')

/** Test files that run in all runtimes. */
const SUITES = ['operations/golden', 'operations/modes']

/** Where a bundle runs. */
interface Target {
  /** Names of test files. They may read test/fixtures/golden; otherwise they must not use Node.js. */
  readonly suites?: readonly string[]
  /** With 'webgpu' the page passes its GPUDevice to the export `setGpu` first. */
  readonly backend?: 'cpu' | 'webgpu'
}

/** The code of a module whose `outcomes()` runs the suites and returns a promise of an array of {@link Outcome}. */
export async function bundleSuites({ suites = SUITES, backend = 'cpu' }: Target = {}): Promise<string> {
  const files = suites.map((name) => `${JSON.stringify(name)}: () => import('./${name}.test.ts')`)
  const { outputFiles } = await build({
    stdin: {
      contents: `
        import { run } from './support/portable/run.ts'
        export { setGpu } from './support/gpu-device.ts'
        export const outcomes = () => run({ ${files.join()} })`,
      resolveDir: test,
    },
    bundle: true,
    format: 'esm',
    target: 'es2022',
    write: false,
    loader: { '.safetensors': 'binary', '.json': 'binary' },
    define: {
      'process.env': JSON.stringify({ LILY_TEST_BACKEND: backend }),
      'import.meta.url': '"file:///test/operations/suite.ts"',
    },
    plugins: [substitutes],
    logLevel: 'error',
  })
  return outputFiles[0].text
}

/** Checks that the suites passed, and that there are enough results to know that no part was left out. */
export function expectAllPassed(results: readonly Outcome[]): void {
  deepEqual(
    results.filter(({ errors }) => errors.length > 0),
    [],
  )
  const names = results.map(({ name }) => name)
  for (const part of ['golden > one layer', 'golden > chained layers', 'modes > float16 > token', 'modes > mixed']) {
    ok(
      names.some((name) => name.includes(part)),
      `no result is of ${part}`,
    )
  }
  ok(names.length > 250, `there are ${names.length} results`)
}

/** Code that enters each file of a folder in the Map `files`. */
function embedded(folder: string, path: string): string {
  const names = readdirSync(folder).filter((name) => /\.(json|safetensors)$/.test(name))
  const imports = names.map((name, i) => `import file${i} from './${name}'\nfiles.set('${path}/${name}', file${i})`)
  return `const files = new Map()\n${imports.join('\n')}\n`
}

/** What takes the place of each module of Node.js. */
const NODE: Readonly<Record<string, string>> = {
  'node:url': 'export const fileURLToPath = (url) => new URL(url).pathname',
  'node:path': "export const join = (...parts) => parts.join('/')",
  'node:fs': `
    ${embedded(golden, '/test/fixtures/golden')}
    export function readFileSync(path, encoding) {
      const bytes = files.get(path)
      if (bytes === undefined) throw new Error('the bundle has no ' + path)
      return encoding === undefined ? bytes : new TextDecoder().decode(bytes)
    }`,
}

const substitutes: Plugin = {
  name: 'substitutes',
  setup(bundle) {
    bundle.onResolve({ filter: /^vitest$/ }, () => ({ path: join(test, 'support', 'portable', 'vitest.ts') }))
    bundle.onResolve({ filter: /\/lib\/index\.js$/ }, () => ({ path: 'lily-kernels', external: true }))
    bundle.onResolve({ filter: /^node:/ }, ({ path }) => (path in NODE ? { path, namespace: 'node' } : null))
    bundle.onLoad({ filter: /.*/, namespace: 'node' }, ({ path }) => ({ contents: NODE[path], resolveDir: golden }))
  },
}
