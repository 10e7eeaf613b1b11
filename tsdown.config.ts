import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { licensePlugin } from 'rolldown-license-plugin'
import { defineConfig, type UserConfig } from 'tsdown'

const shared = { outDir: 'dist', platform: 'node', target: 'node20', fixedExtension: false, sourcemap: false } as const

/** The notices that the licenses of the bundled packages require. */
const licenses = licensePlugin({
  failOnUnlicensed: true,
  done(packages, context) {
    const texts = packages.map(({ name, version, license, licenseText }) => {
      return `${name} ${version} (${license})\n\n${licenseText.trim()}\n`
    })
    context.emitFile({
      type: 'asset',
      fileName: 'THIRD-PARTY-LICENSES.txt',
      source: texts.join(`\n${'-'.repeat(80)}\n\n`),
    })
  },
})

const entries = { index: 'lib/index.ts', tfjs: 'lib/tfjs/index.ts', 'tfjs-layers': 'lib/tfjs-layers/index.ts' }

/** The files of pages, whose types are those of the other files. */
const browser: UserConfig = {
  ...shared,
  platform: 'browser',
  target: 'es2022',
  entry: Object.fromEntries(Object.entries(entries).map(([name, file]) => [`browser/${name}`, file])),
  format: ['esm'],
  dts: false,
  clean: false,
  outputOptions: { chunkFileNames: 'browser/[name]-[hash].js' },
  inputOptions: { moduleTypes: { '.wasm': 'base64' } },
  plugins: [
    {
      name: 'x.browser.ts takes the place of x.ts',
      resolveId(source, importer) {
        if (importer === undefined || !/^\..*\.js$/.test(source)) return null
        const file = join(dirname(importer), source.replace(/\.js$/, '.browser.ts'))
        return existsSync(file) ? file : null
      },
    },
  ],
}
const hasWasm = ['wasm', 'wasm-relaxed'].every((build) => existsSync(`build/wasm/${build}.wasm`))
if (!hasWasm) console.log('lily-kernels: the files for browsers are not built: there is no build/wasm/*.wasm')

export default defineConfig([
  // The entries share their chunks, so that a program that imports several of them has one copy of the package.
  {
    ...shared,
    entry: entries,
    format: ['esm', 'cjs'],
    dts: true,
  },
  // The command line, with its dependencies bundled: users who only call the kernels install none of them.
  {
    ...shared,
    entry: { cli: 'cli/main.ts' },
    format: ['esm'],
    dts: false,
    clean: false,
    minify: true,
    deps: { onlyBundle: false },
    outputOptions: { chunkFileNames: 'cli-[name].js' },
    plugins: [licenses],
  },
  ...(hasWasm ? [browser] : []),
])
