/** Packages of npm that only some tests use, in folders of build/. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'

/**
 * Installs packages, such as `name@version`, in a folder of build/ unless it has them, without install scripts. Returns
 * the folder. Throws if they cannot be installed.
 */
export function installOnce(name: string, packages: readonly string[], ...options: string[]): string {
  const folder = join(packageRoot, 'build', name)
  const installed = join(folder, `installed-${packages.join(' ').replaceAll('/', '+')}`)
  if (existsSync(installed)) return folder
  mkdirSync(dirname(folder), { recursive: true })
  // Elsewhere first, because another test file may install the same packages at the same time.
  const draft = mkdtempSync(`${folder}-`)
  writeFileSync(join(draft, 'package.json'), '{ "private": true }\n')
  const all = ['--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error', ...options]
  execFileSync('npm', ['install', ...all, ...packages], { cwd: draft, stdio: 'inherit' })
  writeFileSync(join(draft, basename(installed)), '')
  try {
    if (!existsSync(installed)) rmSync(folder, { recursive: true, force: true })
    renameSync(draft, folder)
  } catch (error) {
    if (!existsSync(installed)) throw error
    rmSync(draft, { recursive: true })
  }
  return folder
}
