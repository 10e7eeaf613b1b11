import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { licensePlugin } from 'rolldown-license-plugin'
import { defineConfig, type UserConfig } from 'tsdown'

/** For users who have no types of `Symbol.dispose`. */
const types = { dts: '/// <reference lib="esnext.disposable" />' }
const shared = { outDir: 'dist', platform: 'node', target: 'node20', fixedExtension: false, sourcemap: false } as const
/** Editors show the comments of the types. */
const comments = { legal: true, annotation: true, jsdoc: false }

/** The notices that the licenses of the bundled packages require, in a file of `folder`. */
const licenses = (folder = '') =>
  licensePlugin({
    failOnUnlicensed: true,
    done(packages, context) {
      const texts = packages.map(({ name, version, license, licenseText }) => {
        return `${name} ${version} (${license})\n\n${licenseText.trim()}\n`
      })
      context.emitFile({
        type: 'asset',
        fileName: `${folder}THIRD-PARTY-LICENSES.txt`,
        source: texts.join(`\n${'-'.repeat(80)}\n\n`),
      })
    },
  })

const entries = { index: 'lib/index.ts', tfjs: 'lib/tfjs/index.ts', 'tfjs-layers': 'lib/tfjs-layers/index.ts' }

/** tsdown builds the code for CommonJS beside its types, a second time. */
const typesOnly = {
  name: 'types only',
  generateBundle(_options: unknown, bundle: Record<string, unknown>) {
    for (const file of Object.keys(bundle)) if (/\.c?js$/.test(file)) Reflect.deleteProperty(bundle, file)
  },
}

/** Files of another environment, beside the others: `x.${name}.ts` takes the place of `x.ts`. */
const variant = (name: string) => ({
  name: `x.${name}.ts takes the place of x.ts`,
  resolveId(source: string, importer: string | undefined) {
    if (importer === undefined || !/^\..*\.js$/.test(source)) return null
    const file = join(dirname(importer), source.replace(/\.js$/, `.${name}.ts`))
    return existsSync(file) ? file : null
  },
})

/**
 * Shaders without comments, indentation, and white space beside punctuation. It takes the whole text of the files that have
 * shaders: no other string in them has such white space, and no line of TypeScript ends with a semicolon.
 */
const shaders = {
  name: 'shorter shaders',
  transform(code: string, id: string) {
    if (!/\/lib\/webgpu\/(wgsl|plan)\/|\/bytes\.ts$/.test(id)) return null
    return code
      .replace(/(^|\s)\/\/.*/gm, '$1')
      .replace(/\n\s+/g, '\n')
      .replace(/ *([-+*/%=<>!&|^,;:()[\]?]) */g, '$1')
      .replace(/([;{])\s+|\s+(?=\})/g, '$1')
  },
  /** Constants in templates, which the minifier leaves there as `${16}`. */
  generateBundle(_options: unknown, bundle: Readonly<Record<string, { type: string; code?: string }>>) {
    for (const file of Object.values(bundle)) file.code &&= file.code.replace(/\$\{(\d+)\}/g, '$1')
  },
}

const wasmBuilds = ['wasm', 'wasm-relaxed']
const wasmFile = (build: string) => `build/wasm/${build}.wasm`

/** Modules as text. They are deflated before, because base64 hides their repetitions from the compression of a package. */
const deflatedWasm = {
  name: 'a .wasm file is a string: deflated, in base64',
  load(id: string) {
    if (!id.endsWith('.wasm')) return null
    const text = deflateRawSync(readFileSync(id), { level: 9 }).toString('base64')
    return { code: `export default ${JSON.stringify(text)}`, moduleType: 'js' as const }
  },
}

/** The files of pages, whose types are those of the other files. */
const browser: UserConfig = {
  ...shared,
  platform: 'browser',
  target: 'es2022',
  entry: {
    ...Object.fromEntries(Object.entries(entries).map(([name, file]) => [`browser/${name}`, file])),
    // Files of their own, which Node.js reads too.
    ...Object.fromEntries(wasmBuilds.map((build) => [`browser/${build}`, wasmFile(build)])),
  },
  format: ['esm'],
  dts: false,
  clean: false,
  outputOptions: { chunkFileNames: 'browser/[name]-[hash].js', comments },
  // Bundled, because only pages use it: Node.js inflates by itself.
  deps: { onlyBundle: ['fflate'] },
  plugins: [variant('browser'), deflatedWasm, licenses('browser/')],
}

/** One file for pages, Node.js and other runtimes: nothing in it loads code of a platform. */
const webgpu: UserConfig = {
  ...shared,
  platform: 'neutral',
  target: 'es2022',
  entry: { webgpu: 'lib/webgpu/index.ts' },
  format: ['esm', 'cjs'],
  dts: false,
  clean: false,
  minify: true,
  // Conversions of numbers, which this subpath does not use, import a package.
  inputOptions: { treeshake: { moduleSideEffects: false } },
  plugins: [variant('webgpu'), shaders],
}
const hasWasm = wasmBuilds.every((build) => existsSync(wasmFile(build)))
if (!hasWasm) console.log('lily-kernels: the files for browsers are not built: there is no build/wasm/*.wasm')

export default defineConfig([
  // The types of all entries at once, so that a tensor of one is a tensor of the others.
  {
    ...shared,
    entry: { ...entries, webgpu: 'lib/webgpu/index.ts' },
    format: ['esm', 'cjs'],
    dts: { emitDtsOnly: true },
    banner: types,
    clean: false,
    plugins: [typesOnly],
  },
  // The entries share their chunks, so that a program that imports several of them has one copy of the package.
  {
    ...shared,
    entry: entries,
    format: ['esm', 'cjs'],
    dts: false,
    outputOptions: { comments },
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
    plugins: [licenses()],
  },
  webgpu,
  ...(hasWasm ? [browser] : []),
])
