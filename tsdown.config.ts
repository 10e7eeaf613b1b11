import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { licensePlugin } from 'rolldown-license-plugin'
import { defineConfig, type UserConfig } from 'tsdown'

/** For users who have no types of `Symbol.dispose`. */
const types = { dts: '/// <reference lib="esnext.disposable" />' }
/** CommonJS has no `import.meta`; lib/binding/root.ts does without it. */
const commonJs: UserConfig = { format: 'cjs', define: { 'import.meta': '{}' } }
const shared = { outDir: 'dist', platform: 'node', target: 'node20', fixedExtension: false, sourcemap: false } as const
/** Editors show the comments of the types. */
const comments = { legal: true, annotation: true, jsdoc: false }

/** Notices of packages that do not contain the texts of their licenses. */
const notices = readFileSync('native/THIRD-PARTY-LICENSES.txt', 'utf8')

/** The notices that the licenses of the bundled packages require, in a file of `folder`. */
const licenses = (folder = '') =>
  licensePlugin({
    failOnUnlicensed: true,
    done(packages, context) {
      const isNoted = (name: string) => notices.includes(`\n${name}, in `)
      const texts = packages.flatMap(({ name, version, license, licenseText }) => {
        if (licenseText !== '') return [`${name} ${version} (${license})\n\n${licenseText.trim()}\n`]
        if (isNoted(name)) return []
        throw new Error(`${name} lacks the text of its license: add it to native/THIRD-PARTY-LICENSES.txt`)
      })
      context.emitFile({
        type: 'asset',
        fileName: `${folder}THIRD-PARTY-LICENSES.txt`,
        source: texts.join(`\n${'-'.repeat(80)}\n\n`),
      })
    },
  })

const entries = {
  index: 'lib/index.ts',
  tfjs: 'lib/tfjs/index.ts',
  'tfjs-layers': 'lib/tfjs-layers/index.ts',
  webgpu: 'lib/webgpu/index.ts',
  gguf: 'lib/gguf/index.ts',
  onnx: 'lib/onnx/index.ts',
  mpi: 'lib/mpi/index.ts',
}

/** In one file: CommonJS modules get at each other's variables by functions, which every call would enter. */
const sharedFiles = /\/lib\/(?!tfjs|tfjs-layers|webgpu|gguf|onnx|mpi|index\.ts)/

/** Bundled, because only lily-kernels/onnx uses them. */
const schemas = ['onnx-buf', '@bufbuild/protobuf']

/** tsdown builds the code for CommonJS beside its types, a second time. */
const typesOnly = {
  name: 'types only',
  generateBundle(_options: unknown, bundle: Record<string, unknown>) {
    for (const file of Object.keys(bundle)) if (/\.c?js$/.test(file)) Reflect.deleteProperty(bundle, file)
  },
}

/** Files for browsers, beside those for Node.js: `x.browser.ts` takes the place of `x.ts`. */
const browserFiles = {
  name: 'x.browser.ts takes the place of x.ts',
  resolveId(source: string, importer: string | undefined) {
    if (importer === undefined || !/^\..*\.js$/.test(source)) return null
    const file = join(dirname(importer), source.replace(/\.js$/, '.browser.ts'))
    return existsSync(file) ? file : null
  },
}

/** ES modules that re-export the CommonJS ones, and their types: `import` and `require` get the same objects. */
const entryModules = {
  name: 'ES entries',
  generateBundle(
    this: { emitFile(file: { type: 'asset'; fileName: string; source: string }): void },
    _options: unknown,
    bundle: Readonly<Record<string, { isEntry?: boolean; name?: string; exports?: readonly string[] }>>,
  ) {
    for (const { isEntry, name, exports = [] } of Object.values(bundle)) {
      if (isEntry !== true) continue
      const names = exports.map((exported) => `  ${exported},\n`).join('')
      this.emitFile({ type: 'asset', fileName: `${name}.js`, source: `export {\n${names}} from './${name}.cjs'\n` })
      this.emitFile({ type: 'asset', fileName: `${name}.d.ts`, source: `export * from './${name}.cjs'\n` })
    }
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

const hasWasm = wasmBuilds.every((build) => existsSync(wasmFile(build)))
if (!hasWasm)
  console.log('lily-kernels: of the files for browsers, only that for WebGPU is built: there is no build/wasm/*.wasm')

/**
 * The files of pages, whose types are those of the other files. Only lily-kernels/webgpu does without WebAssembly, and pages
 * have no MPI.
 */
const browserEntries = Object.entries(entries).filter(([name]) => (hasWasm && name !== 'mpi') || name === 'webgpu')
const browser: UserConfig = {
  ...shared,
  platform: 'browser',
  target: 'es2022',
  entry: {
    ...Object.fromEntries(browserEntries.map(([name, file]) => [`browser/${name}`, file])),
    // Files of their own, which Node.js reads too.
    ...Object.fromEntries((hasWasm ? wasmBuilds : []).map((build) => [`browser/${build}`, wasmFile(build)])),
  },
  format: ['esm'],
  dts: false,
  clean: false,
  outputOptions: { chunkFileNames: 'browser/[name]-[hash].js', comments },
  // @bufbuild/protobuf asks for a variable of Node.js.
  define: { 'process.env': '{}' },
  // Bundled, because only pages use it: Node.js inflates by itself.
  deps: { onlyBundle: ['fflate', ...schemas] },
  plugins: [browserFiles, deflatedWasm, licenses('browser/')],
}

export default defineConfig([
  // The types of all entries at once, so that a tensor of one is a tensor of the others.
  {
    ...shared,
    ...commonJs,
    entry: entries,
    dts: { emitDtsOnly: true },
    banner: types,
    clean: false,
    plugins: [typesOnly],
  },
  // The entries share their chunks, so that a program that imports several of them has one copy of the package. They are
  // CommonJS: Jest, and Node.js before 22.12, cannot `require` ES modules.
  {
    ...shared,
    ...commonJs,
    entry: entries,
    dts: false,
    deps: { onlyBundle: schemas },
    outputOptions: { comments, codeSplitting: { groups: [{ name: 'lily', test: sharedFiles }] } },
    plugins: [entryModules],
  },
  // The command line, with its dependencies bundled: users who only call the kernels install none of them.
  {
    ...shared,
    entry: { cli: 'cli/main.ts' },
    format: ['esm'],
    dts: false,
    clean: false,
    minify: true,
    define: { __dirname: 'import.meta.dirname' },
    deps: { onlyBundle: false },
    outputOptions: { chunkFileNames: 'cli-[name].js' },
    plugins: [licenses()],
  },
  browser,
])
