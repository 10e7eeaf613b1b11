/** A missing or invalid CUDA library, or variables: backends() gives the reason, and the cpu backend works. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { runProgram } from '../support/program.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-absence-'))
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function library(name: string, source: string): string {
  const path = join(folder, name)
  execFileSync(process.env.CXX ?? 'c++', ['-shared', '-fPIC', '-x', 'c', '-', '-o', path], { input: source })
  return path
}

const libraries: [string, () => string, RegExp][] = [
  ['does not exist', () => join(folder, 'nothing.so'), /LILY_CUDA_LIBRARY names .*nothing\.so, which does not exist/],
  [
    'is a text file',
    () => (writeFileSync(join(folder, 'text.so'), 'no library'), join(folder, 'text.so')),
    /does not load: .*text\.so/,
  ],
  [
    'is another library',
    () => library('other.so', 'int other(void) { return 1; }'),
    /other\.so is not a CUDA library of lily-kernels/,
  ],
  [
    'is of another version',
    () => library('version.so', 'const void *lily_backend_get(unsigned version) { return 0; }'),
    /version\.so is of another version than the addon/,
  ],
]

async function expectNoCuda(env: Record<string, string>, reason: RegExp): Promise<void> {
  const { code, stdout, text } = await runProgram('backends.js', {}, env)
  expect(code, text).toBe(0)
  const { cuda, errors, y } = JSON.parse(stdout) as { cuda: { reason: string }; errors: string[]; y: number[] }
  expect(cuda).toMatchObject({ name: 'cuda', available: false, devices: [] })
  expect(cuda.reason).toMatch(reason)
  for (const error of errors) expect(error).toMatch(/^ERR_LILY_BACKEND_UNAVAILABLE: .*cuda:0 is not available/)
  expect(y).toEqual([12, 24])
}

describe('a CUDA library that', () => {
  for (const [name, path, reason] of libraries)
    test(name, async () => {
      await expectNoCuda({ LILY_CUDA_LIBRARY: path() }, reason)
    })
})

test.each(['LILY_CUBLASLT', 'LILY_SELF_TEST'])('%s=off is refused, and an empty one is unset', async (name) => {
  await expectNoCuda({ [name]: 'off' }, new RegExp(`^${name} must be 0 or 1; change it or unset it$`))
  const LILY_CUDA_LIBRARY = join(folder, 'nothing.so')
  await expectNoCuda({ [name]: '', LILY_CUDA_LIBRARY }, /nothing\.so, which does not exist/)
})
