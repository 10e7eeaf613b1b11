// Finds the compiler of the addon for Windows on x64, on Linux or on Windows.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const COMPILERS = ['clang++-21', 'clang++-20', 'clang++-19', 'clang++']
const toolchain = join(
  dirname(dirname(fileURLToPath(import.meta.url))),
  'native',
  'system',
  'windows',
  'toolchain.cmake',
)

/** What a machine without such a compiler lacks. */
export const noWindowsCompiler =
  `no ${COMPILERS.join(', ')} that links for x86_64-w64-mingw32 was found ` +
  '(Debian: apt install clang-19 lld-19 g++-mingw-w64-x86-64-posix; Windows: LLVM and MinGW-w64 in PATH)'

/** @type {(compiler: string) => boolean} */
function links(compiler) {
  const folder = mkdtempSync(join(tmpdir(), 'lily-link-'))
  const target = ['--target=x86_64-w64-mingw32', '-std=c++20', '-fuse-ld=lld', '-static', '-shared', '-pthread']
  const input = '#include <windows.h>\n#include <mutex>\n#include <string>\nstd::mutex lock;\nstd::string text;\n'
  const { status } = spawnSync(compiler, [...target, '-x', 'c++', '-', '-o', join(folder, 'linked.dll')], {
    input,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  rmSync(folder, { recursive: true, force: true })
  return status === 0
}

/**
 * The arguments of CMake that build for Windows; null: there is no compiler.
 *
 * @type {() => string[] | null}
 */
export function windowsOptions() {
  const compiler = COMPILERS.find(links)
  return compiler === undefined
    ? null
    : [`-DCMAKE_TOOLCHAIN_FILE=${toolchain}`, `-DCMAKE_CXX_COMPILER=${compiler}`, '-DLILY_CUDA=OFF']
}
