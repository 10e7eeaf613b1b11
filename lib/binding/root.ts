import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's folder, in which prebuilds/ and package.json are: the nearest one above this file that has a package.json. */
export const packageRoot = findPackageRoot(dirname(fileURLToPath(import.meta.url)))

function findPackageRoot(folder: string): string {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  // Bundled to where no package is: node-gyp-build then reports what it did not find.
  return parent === folder ? folder : findPackageRoot(parent)
}
