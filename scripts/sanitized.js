#!/usr/bin/env node
// Builds the addon with sanitizers into build/<name>/, without touching the normal build, and runs tests with it:
//
//   node scripts/sanitized.js address|thread [TESTS...]      TESTS: arguments for vitest; default: the files that say so
//
// `address` is AddressSanitizer with UndefinedBehaviorSanitizer. LD_PRELOAD loads the sanitizers' libraries into node.
// The first finding ends its process and the run.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/**
 * @typedef {object} Sanitizer
 * @property {string} flags value of -fsanitize
 * @property {string[]} options further options of CMake
 * @property {string[]} libraries
 * @property {string} tag in the first comment of the tests that cover the native code within minutes
 * @property {string[]} projects of vitest
 * @property {number} workers how many test files run at a time
 * @property {Record<string, string>} env
 */
/** @type {Record<string, Sanitizer>} */
const SANITIZERS = {
  address: {
    flags: 'address,undefined',
    options: [],
    libraries: ['libasan.so', 'libubsan.so'],
    // Every instruction set, mode and data type, objects whose lifetime the garbage collector determines, and
    // invalid calls of the addon.
    tag: '@asan',
    projects: ['cpu', 'amx'],
    workers: 2,
    env: {
      // Only test/memory/leak.test.ts checks for leaks: vitest ends its processes before they free their memory. GCC 12
      // misaligns 64-byte vectors on AddressSanitizer's fake stack.
      ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  },
  thread: {
    flags: 'thread',
    options: ['-DLILY_AMX_MODEL=OFF'],
    libraries: ['libtsan.so'],
    // The thread pool and the binding: promises, workers (some terminated during a call), and numbers of threads.
    // Also the thread that calls MPI.
    tag: '@tsan',
    projects: ['cpu', 'mpi'],
    workers: 1, // four threads each
    env: {
      // node itself is not instrumented: only its libc calls are visible, and they would be reported as races. UCX, which MPI
      // loads, does not join a thread.
      TSAN_OPTIONS: 'ignore_noninstrumented_modules=1:halt_on_error=1:report_thread_leaks=0',
      LILY_NUM_THREADS: '4',
      // PMIx of Open MPI otherwise maps memory at an address that ThreadSanitizer uses.
      PMIX_MCA_gds: 'hash',
    },
  },
}

/** @type {(message: string) => never} */
function fail(message) {
  console.error(`lily-kernels: ${message}`)
  process.exit(1)
}

/** @type {(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv) => void} */
function run(command, args, cwd, env) {
  const { status } = spawnSync(command, args, { cwd, env: { ...process.env, ...env }, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}

const [name, ...chosen] = process.argv.slice(2)
const sanitizer = SANITIZERS[name ?? '']
if (!sanitizer) fail(`usage: node scripts/sanitized.js ${Object.keys(SANITIZERS).join('|')} [TESTS...]`)

const folder = join(root, 'build', name)
mkdirSync(folder, { recursive: true })
const options = [
  process.env.LILY_CMAKE_ARGS ?? '',
  '-DLILY_CUDA=OFF',
  `-DLILY_SANITIZE=${sanitizer.flags}`,
  ...sanitizer.options,
]
run(process.execPath, [join(root, 'scripts', 'build-native.js'), '--addon-only'], folder, {
  LILY_CMAKE_ARGS: options.join(' '),
})

const libraries = sanitizer.libraries.map((library) => {
  const { stdout } = spawnSync(process.env.CXX ?? 'g++', [`-print-file-name=${library}`], { encoding: 'utf8' })
  const path = stdout?.trim() ?? ''
  // The compiler prints the name unchanged if it does not find the library.
  return path.startsWith('/') ? path : fail(`${library} was not found; it comes with g++`)
})
const tagged = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' }).flatMap((name) => {
  const file = join('test', name)
  if (!file.endsWith('.test.ts')) return []
  const [comment] = readFileSync(join(root, file), 'utf8').split('*/', 1)
  return comment.includes(sanitizer.tag) ? [file] : []
})
const tests = chosen.length > 0 ? chosen : tagged
if (tests.length === 0) fail(`no test says ${sanitizer.tag}`)
const projects = sanitizer.projects.flatMap((project) => ['--project', project])
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
run(process.execPath, [vitest, 'run', ...projects, `--maxWorkers=${sanitizer.workers}`, ...tests], root, {
  // The addon is loaded from this folder.
  LILY_KERNELS_PREBUILD: folder,
  LILY_TEST_SANITIZER: name,
  LD_PRELOAD: libraries.join(' '),
  ...sanitizer.env,
})
