/** The prebuilt addon for Windows as a file: what Wine does not show when it runs it. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { findProgram } from '../support/find-program.js'

const OBJDUMP = 'x86_64-w64-mingw32-objdump'
const missing = findProgram(OBJDUMP) === undefined ? `no ${OBJDUMP} (Debian: g++-mingw-w64-x86-64-posix)` : null

function dump(...args: string[]): string {
  return execFileSync(OBJDUMP, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
}

test('the addon needs libraries of Windows only, and exports what Node-API looks up', (context) => {
  if (missing !== null) return context.skip(missing)
  const headers = dump('-p', join(packageRoot, 'prebuilds/win32-x64/lily.node'))
  const libraries = [...headers.matchAll(/DLL Name: (.*)/g)].map(([, name]) => name.toLowerCase())
  expect(libraries.sort()).toEqual(['kernel32.dll', 'msvcrt.dll'])
  const names = [...headers.matchAll(/^\s*\[ *\d+\] \+base\[ *\d+\] +[0-9a-f]+ (\w+)$/gm)].map(([, name]) => name)
  expect(names.sort()).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
})

/** Functions that move a vector to or from an aligned place on the stack, and those of them that do not align the stack. */
function stackVectors(object: string): { all: string[]; unaligned: string[] } {
  const all: string[] = []
  const unaligned: string[] = []
  for (const block of dump('-d', '--no-show-raw-insn', object).split(/\n(?=[0-9a-f]+ <)/)) {
    const moves = block.match(/[\t]vmov(ap[sd]|dqa(32|64)?) .*\(%rsp.*/g)?.filter((move) => /%[yz]mm/.test(move)) ?? []
    if (moves.length === 0) continue
    const name = /<(.*)>:/.exec(block)?.[1] ?? ''
    all.push(name)
    const aligned = 0x100 - parseInt(/\tand +\$0xf{14}([0-9a-f]{2}),%rsp/.exec(block)?.[1] ?? 'ff', 16)
    if (aligned < (moves.some((move) => move.includes('%zmm')) ? 64 : 32)) unaligned.push(name)
  }
  return { all, unaligned }
}

// Windows aligns stacks to 16 bytes. Whether a vector of more lies on its boundary is then chance, under Wine as well.
describe('functions align the stack for the vectors that they keep there', () => {
  test.for(['avx2', 'avx512', 'avx512bf16', 'amx'])('%s', (name, context) => {
    if (missing !== null) return context.skip(missing)
    const objects = 'build/prebuild/win32-x64/build/cmake/CMakeFiles/lily.dir/native/cpu'
    const object = join(packageRoot, objects, `kernels_${name}.cc.obj`)
    if (!existsSync(object))
      return context.skip(`no object files: there is no ${object}; npm run test:windows says why`)
    const { all, unaligned } = stackVectors(object)
    expect(all.length).toBeGreaterThan(10)
    expect(unaligned).toEqual([])
  })
})
