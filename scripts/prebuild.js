#!/usr/bin/env node
// Makes prebuilds/<platform>-<arch>/lily.<libc>.node, which the published package carries instead of an install script:
// for this machine, and on linux-x64 for linux-arm64 too if Debian's cross compiler is there. Beside the first lies
// lily_cuda.so for all architectures, which takes nvcc and many minutes; --addon-only leaves it out. --arch=ARCH makes
// one of the two.
//
// prebuildify strips and moves what it finds in build/Release; it gets a folder of its own for that, so that the addon
// in the checkout, which a running program may have mapped, stays as it is.
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { architectures } from './cuda-architectures.js'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const prebuildify = join(root, 'node_modules', 'prebuildify', 'bin.js')

const isAddonOnly = process.argv.includes('--addon-only')

/** @type {(commands: string[]) => string | undefined} */
const firstThatAnswers = (commands) =>
  commands.find((command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0)

/** @type {(arch: string, compiler: string | undefined, strip: string, cmake: string[]) => void} */
function prebuild(arch, compiler, strip, cmake) {
  const folder = join('build', 'prebuild', `${process.platform}-${arch}`)
  mkdirSync(join(root, folder), { recursive: true })
  // What a build with it has left would be packed.
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
    LILY_CMAKE_ARGS: [process.env.LILY_CMAKE_ARGS ?? '', ...cmake].join(' '),
  }
  const { status } = spawnSync(
    process.execPath,
    [prebuildify, ...options, '--cwd', join(root, folder), '--out', root, '--node-gyp', builder],
    { env, stdio: 'inherit' },
  )
  if (status !== 0) process.exit(status ?? 1)
}

// GCC 12 where there is one: the addon asks for no newer libstdc++ than its compiler's.
function prebuildHere() {
  const cuda = isAddonOnly
    ? ['-DLILY_CUDA=OFF']
    : ['-DLILY_CUDA=ON', `-DLILY_CUDA_ARCHITECTURES=${architectures.join(';')}`]
  prebuild(process.arch, process.env.CXX ?? firstThatAnswers(['g++-12']), 'strip', cuda)
}

function prebuildArm64() {
  const prefix = 'aarch64-linux-gnu'
  const compiler = firstThatAnswers([`${prefix}-g++-12`, `${prefix}-g++`])
  if (compiler) {
    const system = ['-DCMAKE_SYSTEM_NAME=Linux', '-DCMAKE_SYSTEM_PROCESSOR=aarch64']
    prebuild('arm64', compiler, `${prefix}-strip`, [...system, '-DLILY_CUDA=OFF'])
    return
  }
  rmSync(join(root, 'prebuilds', 'linux-arm64'), { recursive: true, force: true })
  const reason = `no ${prefix}-g++ (Debian: apt install g++-12-${prefix})`
  console.log(`lily-kernels: the addon for linux-arm64 was not built: ${reason}`)
  // What is published has both.
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
