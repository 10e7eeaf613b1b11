/** docs/cuda.md says what to do for every reason why there is no CUDA device. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'

const read = (file: string) => readFileSync(join(packageRoot, file), 'utf8')

/** The first column of the table, in parts between the places where the text differs from case to case. */
const rows = [...read('docs/cuda.md').matchAll(/^\| (.+?) +\|/gm)].map(([, reason]) => reason.split('...'))

/** The texts that a C++ file builds in expressions of this form, with `...` for what is not literal. */
function texts(file: string, expression: RegExp): string[] {
  return [...read(file).matchAll(expression)].map(([, built]) =>
    [...built.matchAll(/"((?:[^"\\]|\\.)*)"/g)]
      .map(([, literal]) => literal.replace(/%[\d.*]*[a-z]+/g, '...'))
      .join('...'),
  )
}

const inOrder = (text: string, parts: string[]): boolean => {
  let from = 0
  return parts.every((part) => {
    const at = text.indexOf(part.trim(), from)
    from = at + part.length
    return at >= 0
  })
}

const device = read('native/cuda/device.cc')
const [, names] = /cudaErrorMemoryAllocation: return[^;]*;([\s\S]*?)return LILY_ERROR_UNAVAILABLE/.exec(
  read('native/cuda/error.cc'),
)!

describe.each([
  ['the CUDA library', texts('native/napi/cuda_library.cc', /return \{nullptr,([^{}]*)\};/g), 5],
  ['other systems', texts('native/napi/no_cuda_library.cc', /return \{nullptr,([^{}]*)\};/g), 1],
  ['the driver and the devices', texts('native/cuda/device.cc', /fail\(LILY_ERROR_UNAVAILABLE,([\s\S]*?)\);\n/g), 5],
  ['WebAssembly', [/NO_CUDA = '([^']*)'/.exec(read('lib/binding/wasm/native.ts'))![1]], 1],
  ['the self-test', texts('native/napi/self_test.cc', /return ("cuda:" \+[^;]*);/g), 1],
  // Those that device_count describes itself do not appear by name.
  [
    'errors of CUDA',
    [...names.matchAll(/case (\w+)/g)].flatMap(([, name]) => (device.includes(`== ${name}`) ? [] : [name])),
    6,
  ],
] as const)('%s', (_, reasons, fewest) => {
  test('has reasons', () => expect(reasons.length).toBeGreaterThanOrEqual(fewest))

  test.each(reasons)('%s', (reason) => {
    const found = rows.filter((parts) => parts.join('').length > 8 && inOrder(reason, parts))
    expect(found, `no row of the table in docs/cuda.md is about: ${reason}`).not.toEqual([])
  })
})
