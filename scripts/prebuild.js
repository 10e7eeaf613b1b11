#!/usr/bin/env node
// Builds prebuilds/<platform>-<arch>/lily.<libc>.node (without <libc> beyond Linux), which the published package contains
// instead of an install script: for this machine and, on linux-x64, also for linux-arm64 if Debian's cross compiler is
// installed, and for win32-x64 if clang, lld and the libraries of MinGW-w64 are. The folder of this machine on Linux also
// gets lily_cuda.so for all architectures, which requires nvcc and takes many minutes; --addon-only omits it.
// --target=PLATFORM-ARCH builds for one of them only.
//
// prebuildify strips and moves the files in build/Release. It runs in a separate folder, so that the addon in the
// checkout, which a running program may have mapped, is not modified.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { codeOf, float16Targets, targets } from './cuda-targets.js'
import { noWindowsCompiler, windowsOptions } from './windows-toolchain.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const prebuildify = join(root, 'node_modules', 'prebuildify', 'bin.js')

const isAddonOnly = process.argv.includes('--addon-only')

/** @type {(commands: string[]) => string | undefined} */
const firstAvailable = (commands) =>
  commands.find((command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0)

/** @type {(target: string, compiler: string | undefined, strip: string, cmake: string[]) => void} */
function prebuild(target, compiler, strip, cmake) {
  const [platform, arch] = target.split('-')
  const folder = join('build', 'prebuild', target)
  mkdirSync(join(root, folder), { recursive: true })
  // A library left by a build with CUDA would be packed.
  if (cmake.includes('-DLILY_CUDA=OFF')) {
    for (const left of [join(folder, 'build', 'Release'), join('prebuilds', target)]) {
      rmSync(join(root, left, 'lily_cuda.so'), { force: true })
    }
  }
  // The linker has stripped the file for Windows.
  const ofPlatform = { linux: ['--strip', '--tag-libc'], darwin: ['--strip'] }[platform] ?? []
  const options = ['--napi', ...ofPlatform, '--name', 'lily', '--platform', platform, '--arch', arch]
  const script = join(root, 'scripts', 'build-native.js')
  // prebuildify gives it to a shell on Windows, which starts a .js file with another program than Node.js.
  const builder = process.platform === 'win32' ? `"${process.execPath}" "${script}"` : script
  const env = {
    ...process.env,
    ...(compiler && { CXX: compiler }),
    PREBUILD_STRIP_BIN: strip,
    LILY_CMAKE_ARGS: [process.env.LILY_CMAKE_ARGS ?? '', '-DLILY_CPU_SETS=ALL', '-DLILY_AMX_MODEL=OFF', ...cmake].join(
      ' ',
    ),
  }
  const { status } = spawnSync(
    process.execPath,
    [prebuildify, ...options, '--cwd', join(root, folder), '--out', root, '--node-gyp', builder],
    { env, stdio: 'inherit' },
  )
  if (status !== 0) process.exit(status ?? 1)
}

function prebuildHere() {
  const codes = [targets, float16Targets].map((each) => each.map(codeOf).join(';'))
  const cuda =
    isAddonOnly || process.platform !== 'linux'
      ? ['-DLILY_CUDA=OFF']
      : ['-DLILY_CUDA=ON', `-DLILY_CUDA_TARGETS=${codes[0]}`, `-DLILY_CUDA_FLOAT16_TARGETS=${codes[1]}`]
  // On Linux it prefers GCC 12: the addon then does not require a libstdc++ newer than that compiler's.
  const preferred = process.platform === 'linux' ? firstAvailable(['g++-12']) : undefined
  prebuild(here, process.env.CXX ?? preferred, 'strip', cuda)
}

function prebuildArm64() {
  const prefix = 'aarch64-linux-gnu'
  const compiler = firstAvailable([`${prefix}-g++-12`, `${prefix}-g++`])
  if (compiler === undefined) {
    leaveOut('linux-arm64', `no ${prefix}-g++ (Debian: apt install g++-12-${prefix})`)
    return
  }
  const system = ['-DCMAKE_SYSTEM_NAME=Linux', '-DCMAKE_SYSTEM_PROCESSOR=aarch64']
  prebuild('linux-arm64', compiler, `${prefix}-strip`, [...system, '-DLILY_CUDA=OFF'])
}

function prebuildWindows() {
  const options = windowsOptions()
  if (options === null) leaveOut('win32-x64', noWindowsCompiler)
  else prebuild('win32-x64', undefined, 'strip', options)
}

/** @type {(target: string, reason: string) => void} */
function leaveOut(target, reason) {
  rmSync(join(root, 'prebuilds', target), { recursive: true, force: true })
  console.log(`lily-kernels: the addon for ${target} was not built: ${reason}`)
  // A published package requires all of them.
  if (!isAddonOnly) process.exit(1)
}

const here = `${process.platform}-${process.arch}`
/** @type {Record<string, () => void>} */
const builds = {
  [here]: prebuildHere,
  ...(here === 'linux-x64' && { 'linux-arm64': prebuildArm64, 'win32-x64': prebuildWindows }),
}
const only = process.argv.find((argument) => argument.startsWith('--target='))?.slice('--target='.length)
if (only !== undefined && !Object.hasOwn(builds, only)) {
  console.error(`lily-kernels: --target=${only} cannot be built on ${here}`)
  process.exit(1)
}
for (const build of only === undefined ? Object.values(builds) : [builds[only]]) build()
