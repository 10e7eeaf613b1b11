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

/**
 * @param without part of the paths of the objects that are left out
 * @returns the path of the program
 */
export function link(name: string, objects: readonly string[], without?: string): string {
  // CMake leaves the object of a source that was moved or removed.
  const ofAddon = readdirSync(join(root, 'build', 'cmake'), { recursive: true, encoding: 'utf8' })
    .filter((path) => {
      const source = /CMakeFiles\/lily\.dir\/(native\/(?:cpu|core)\/.*)\.o$/.exec(path)?.[1]
      return source !== undefined && existsSync(join(root, source))
    })
    .filter((path) => without === undefined || !path.includes(without))
    .map((path) => join(root, 'build', 'cmake', path))
  const program = join(folder, name)
  run(compiler, ['-o', program, ...objects, ...ofAddon, '-pthread', '-ldl'])
  return program
}
