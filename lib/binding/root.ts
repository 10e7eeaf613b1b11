/** Where the package lies. */
const { existsSync, readFileSync } = process.getBuiltinModule('node:fs')
const { dirname, join } = process.getBuiltinModule('node:path')

/** The folder of this file in dist/, which is CommonJS. In a bundle as an ES module there may be none. */
const dist = typeof __dirname === 'string' ? __dirname : process.cwd()
/** The folder of this file in lib/. */
const { dirname: source } = import.meta as { readonly dirname?: string }

/** The package's folder: the nearest one above this file that has a package.json. Beside it is prebuilds/. */
export const packageRoot = findPackageRoot(source ?? dist)

/** Whether a bundler has copied this code into a file of a program, which has none of the other files of the package. */
export const isBundled = !isOfPackage(join(packageRoot, 'package.json'))

// What the files of dist/ read. Programs that collect the files of a deployment, as Next.js does, evaluate such
// expressions, where they are constants of their own, and find these files by nothing else.
export const prebuilds = `${dist}/../prebuilds`
export const simdModule = `${dist}/browser/wasm.js`
export const relaxedSimdModule = `${dist}/browser/wasm-relaxed.js`

function findPackageRoot(folder: string): string {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  return parent === folder ? folder : findPackageRoot(parent)
}

function isOfPackage(manifest: string): boolean {
  try {
    const { name } = JSON.parse(readFileSync(manifest, 'utf8')) as { name?: unknown }
    return /(^|\/)lily-kernels$/.test(String(name)) // also of a fork in another scope
  } catch {
    return false
  }
}
