import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

// In a bundle as CommonJS there is no URL.
const folder = (import.meta.url as string | undefined) ? dirname(fileURLToPath(import.meta.url)) : process.cwd()

/** The package's folder: the nearest one above this file that has a package.json. Beside it is prebuilds/. */
export const packageRoot = findPackageRoot(folder)

/** Whether a bundler has copied this code into a file of a program, which has none of the other files of the package. */
export const isBundled = !isOfPackage(join(packageRoot, 'package.json'))

// What the files of dist/ read. Programs that collect the files of a deployment, as Next.js does, evaluate such
// expressions, and find these files by nothing else.
export const prebuilds = join(folder, '../prebuilds')
export const embeddedModules = {
  wasm: join(folder, 'browser/wasm.js'),
  'wasm-relaxed': join(folder, 'browser/wasm-relaxed.js'),
}

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
