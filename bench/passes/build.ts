/** Builds a C++ program of this folder with the objects of the addon (npm run build:native). */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'build', 'passes')
const compiler = process.env.CXX ?? 'g++'

export function run(command: string, args: readonly string[], env = process.env): void {
  execFileSync(command, args, { stdio: 'inherit', env })
}

/** @returns the path of the object */
export function compile(source: string, object: string, ...flags: string[]): string {
  mkdirSync(folder, { recursive: true })
  const output = join(folder, object)
  const includes = [`-I${join(root, 'native')}`, `-I${join(root, 'native', 'include')}`]
  run(compiler, ['-std=c++20', '-O2', ...flags, ...includes, '-c', join(root, source), '-o', output])
  return output
}

/** The object files of the addon in build/Release; none where it was built elsewhere. */
export function addonObjects(): string[] {
  const objects = join(root, 'build/cmake/CMakeFiles/lily.dir')
  if (!existsSync(objects)) return []
  // CMake leaves the object of a source that was moved or removed.
  return readdirSync(objects, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.o') && existsSync(join(root, file.slice(0, -'.o'.length))))
    .map((file) => join(objects, file))
}

/**
 * @param without part of the paths of the objects that are left out
 * @returns the path of the program
 */
export function link(name: string, objects: readonly string[], without?: string): string {
  const ofAddon = addonObjects()
    .filter((path) => /\/lily\.dir\/native\/(cpu|core|system)\//.test(path))
    .filter((path) => without === undefined || !path.includes(without))
  const program = join(folder, name)
  run(compiler, ['-o', program, ...objects, ...ofAddon, '-pthread', '-ldl'])
  return program
}
