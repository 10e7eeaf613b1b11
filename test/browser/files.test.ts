/** The files for browsers, read as text: what they import, and which global names they use. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { Linter } from 'eslint'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

const folder = join(packageRoot, 'dist', 'browser')
const names = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.js')) : []

/** What the files may use, besides the language. Node.js has all of these, too. */
const WEB = [
  'atob',
  'Blob',
  'crossOriginIsolated',
  'crypto',
  'File',
  'navigator',
  'performance',
  'setTimeout',
  'structuredClone',
  'TextDecoder',
  'TextEncoder',
  'URL',
  'WebAssembly',
  'Worker',
]

if (names.length === 0) {
  test('the files for browsers', (context) =>
    context.skip('dist/browser is not built, because there is no build of WebAssembly'))
}

test.runIf(names.length > 0)('import no module of Node.js', async () => {
  const { metafile } = await build({
    entryPoints: names.map((name) => join(folder, name)),
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'neutral',
    outdir: 'nowhere',
    write: false,
    metafile: true,
  })
  const imported = Object.values(metafile.outputs).flatMap(({ imports }) => imports.map(({ path }) => path))
  expect([...new Set(imported)].sort()).toEqual([
    '@tensorflow/tfjs-core',
    '@tensorflow/tfjs-layers',
    'pure-rand/distribution/uniformFloat32',
    'pure-rand/generator/mersenne',
    're2js',
  ])
})

test.runIf(names.length > 0)('use no global name of Node.js', () => {
  const globals = Object.fromEntries(WEB.map((name) => [name, 'readonly' as const]))
  for (const name of names) {
    // Without the module: text in base64.
    const code = readFileSync(join(folder, name), 'utf8').replaceAll(/"[A-Za-z0-9+/=]{1000,}"/g, '""')
    const lines = code.split('\n')
    const messages = new Linter().verify(code, { languageOptions: { globals }, rules: { 'no-undef': 'error' } })
    const found = messages.map(({ message, line }) => `${message} ${lines[line - 1].trim()}`)
    expect(found).toEqual([])
  }
})
