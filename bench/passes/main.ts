/**
 * Times each pass of the CPU backend: npm run bench:passes -- M d r E [rounds] [lora | sequence]. It links the objects of
 * the addon (npm run build:native) with passes.cc, and runs it. The order of the passes is that of native/cpu/backend.cc.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'build', 'passes')
mkdirSync(folder, { recursive: true })

const compile = (source: string, object: string, ...flags: string[]): string => {
  const output = join(folder, object)
  const includes = [`-I${join(root, 'native')}`, `-I${join(root, 'native', 'include')}`]
  run(process.env.CXX ?? 'g++', ['-std=c++20', '-O2', ...flags, ...includes, '-c', join(root, source), '-o', output])
  return output
}
function run(command: string, args: readonly string[]): void {
  execFileSync(command, args, { stdio: 'inherit' })
}

const objects = readdirSync(join(root, 'build'), { recursive: true, encoding: 'utf8' })
  .filter((path) => /CMakeFiles\/lily\.dir\/native\/(cpu|core)\/.*\.o$/.test(path) && !path.includes('thread_pool'))
  .map((path) => join(root, 'build', path))
const tool = join(folder, 'passes')
const pool = compile('native/cpu/thread_pool.cc', 'thread_pool.o', '-D', 'parallel_for=parallel_for_of_pool')
run(process.env.CXX ?? 'g++', ['-o', tool, compile('bench/passes/passes.cc', 'passes.o'), pool, ...objects, '-pthread'])
run(tool, process.argv.slice(2))
