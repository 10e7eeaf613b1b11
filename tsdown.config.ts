import { licensePlugin } from 'rolldown-license-plugin'
import { defineConfig } from 'tsdown'

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

export default defineConfig([
  // The entries share their chunks, so that a program that imports several of them has one copy of the package.
  {
    ...shared,
    entry: { index: 'lib/index.ts', tfjs: 'lib/tfjs/index.ts', 'tfjs-layers': 'lib/tfjs-layers/index.ts' },
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
])
