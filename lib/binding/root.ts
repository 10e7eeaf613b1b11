import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's folder: the nearest one above this file that has a package.json. Beside it is prebuilds/. */
export const packageRoot = findPackageRoot(dirname(fileURLToPath(import.meta.url)))

function findPackageRoot(folder: string): string {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  // In a bundle outside of any package node-gyp-build reports the files that it did not find.
  return parent === folder ? folder : findPackageRoot(parent)
}
