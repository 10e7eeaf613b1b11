#!/usr/bin/env node
// Builds prebuilds/<platform>-<arch>/lily.<libc>.node, which the published package contains instead of an install
// script: for this machine and, on linux-x64, also for linux-arm64 if Debian's cross compiler is installed. The folder
// of this machine also gets lily_cuda.so for all architectures, which requires nvcc and takes many minutes;
// --addon-only omits it. --arch=ARCH builds for one of the two architectures only.
//
// prebuildify strips and moves the files in build/Release. It runs in a separate folder, so that the addon in the
// checkout, which a running program may have mapped, is not modified.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { codeOf, float16Targets, targets } from './cuda-targets.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const prebuildify = join(root, 'node_modules', 'prebuildify', 'bin.js')

const isAddonOnly = process.argv.includes('--addon-only')

/** @type {(commands: string[]) => string | undefined} */
const firstAvailable = (commands) =>
  commands.find((command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0)

/** @type {(arch: string, compiler: string | undefined, strip: string, cmake: string[]) => void} */
function prebuild(arch, compiler, strip, cmake) {
  const folder = join('build', 'prebuild', `${process.platform}-${arch}`)
  mkdirSync(join(root, folder), { recursive: true })
  // A library left by a build with CUDA would be packed.
  if (cmake.includes('-DLILY_CUDA=OFF')) {
    for (const left of [join(folder, 'build', 'Release'), join('prebuilds', `${process.platform}-${arch}`)]) {
      rmSync(join(root, left, 'lily_cuda.so'), { force: true })
    }
  }
  const options = ['--napi', '--strip', '--tag-libc', '--name', 'lily', '--arch', arch]
  const builder = join(root, 'scripts', 'build-native.js')
  const env = {
    ...process.env,
    ...(compiler && { CXX: compiler }),
    PREBUILD_STRIP_BIN: strip,
    LILY_CMAKE_ARGS: [process.env.LILY_CMAKE_ARGS ?? '', '-DLILY_AMX_MODEL=OFF', ...cmake].join(' '),
  }
  const { status } = spawnSync(
    process.execPath,
    [prebuildify, ...options, '--cwd', join(root, folder), '--out', root, '--node-gyp', builder],
    { env, stdio: 'inherit' },
  )
  if (status !== 0) process.exit(status ?? 1)
}

// Prefers GCC 12: the addon then does not require a libstdc++ newer than that compiler's.
function prebuildHere() {
  const codes = [targets, float16Targets].map((each) => each.map(codeOf).join(';'))
  const cuda = isAddonOnly
    ? ['-DLILY_CUDA=OFF']
    : ['-DLILY_CUDA=ON', `-DLILY_CUDA_TARGETS=${codes[0]}`, `-DLILY_CUDA_FLOAT16_TARGETS=${codes[1]}`]
  prebuild(process.arch, process.env.CXX ?? firstAvailable(['g++-12']), 'strip', cuda)
}

function prebuildArm64() {
  const prefix = 'aarch64-linux-gnu'
  const compiler = firstAvailable([`${prefix}-g++-12`, `${prefix}-g++`])
  if (compiler) {
    const system = ['-DCMAKE_SYSTEM_NAME=Linux', '-DCMAKE_SYSTEM_PROCESSOR=aarch64']
    prebuild('arm64', compiler, `${prefix}-strip`, [...system, '-DLILY_CUDA=OFF'])
    return
  }
  rmSync(join(root, 'prebuilds', 'linux-arm64'), { recursive: true, force: true })
  const reason = `no ${prefix}-g++ (Debian: apt install g++-12-${prefix})`
  console.log(`lily-kernels: the addon for linux-arm64 was not built: ${reason}`)
  // A published package requires both.
  if (!isAddonOnly) process.exit(1)
}

const only = process.argv.find((argument) => argument.startsWith('--arch='))?.slice('--arch='.length)
const isCrossing = process.platform === 'linux' && process.arch === 'x64'
if (only && only !== process.arch && !(isCrossing && only === 'arm64')) {
  console.error(`lily-kernels: --arch=${only} cannot be built on ${process.platform}-${process.arch}`)
  process.exit(1)
}
if (!only || only === process.arch) prebuildHere()
if (isCrossing && (!only || only === 'arm64')) prebuildArm64()
