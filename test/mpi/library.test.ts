/** Which library is opened, how it is recognised, and what is said where there is none. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { findProgram } from '../support/find-program.js'
import { LIBRARIES, libraries, type Library, runJob, type Skip, skipWithout } from '../support/mpi.js'
import { temporaryFolder } from '../support/temporary.js'
import type { Input } from './programs/ends.js'
import type { Answer } from './programs/start.js'

const folder = temporaryFolder()
const [openMpi, mpich] = LIBRARIES

/** Compiles programs/library.c. */
function compile(skip: Skip, kind: 'STANDARD' | 'DRAFT' | 'FUNNELED' | 'UNKNOWN'): string {
  const compiler = process.env.CC ?? 'cc'
  skip(findProgram(compiler) === undefined && process.env.CC === undefined, 'no C compiler, cc')
  const library = join(folder, `lib${kind.toLowerCase()}.so`)
  const source = join(packageRoot, 'test/mpi/programs/library.c')
  execFileSync(compiler, ['-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', `-D${kind}`, '-o', library, source])
  return library
}

async function start(library: Library, LILY_MPI_LIBRARY: string) {
  const env = { LILY_MPI_LIBRARY }
  const { code, stderr, answers, left } = await runJob('start', { library, ranks: 2, env })
  expect(left).toEqual([])
  return { code, stderr, answers: [...answers.values()] as Answer[] }
}

/**
 * Starts a job of two ranks that is refused, and returns the message of the first that has answered.
 *
 * @param isFinalized MPI is then over, and the launcher of MPICH 4.2 may end with 0 whatever the codes of its ranks
 */
async function refused(library: Library, LILY_MPI_LIBRARY: string, isFinalized = false): Promise<string> {
  const { code, stderr, answers } = await start(library, LILY_MPI_LIBRARY)
  if (!isFinalized) expect(code, stderr).not.toBe(0)
  expect(answers.length).toBeGreaterThan(0)
  for (const { refusal } of answers) expect(refusal?.code).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
  return answers[0].refusal!.message
}

describe.for(libraries)('with $name', ({ library }) => {
  const other = library === openMpi ? mpich : openMpi

  // operations.test.ts shows that each launcher gets its own library.
  test('LILY_MPI_LIBRARY names the library', async ({ skip }) => {
    skipWithout(skip, library)
    const { code, answers, stderr } = await start(library, library.file)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const { gathered, library: found } of answers) {
      expect(gathered).toEqual([0, 1])
      expect(found).toMatch(library.version)
    }
  })

  test('the library of another launcher would be a world of one per rank', async ({ skip }) => {
    skipWithout(skip, openMpi, mpich)
    const message = await refused(library, other.file)
    expect(message).toContain(other.name)
    expect(message).toContain(library.name)
  })
})

test('LILY_MPI_LIBRARY that is no library of MPI', async ({ skip }) => {
  skipWithout(skip, mpich)
  const message = await refused(mpich, 'libc.so.6')
  expect(message).toContain('libc.so.6')
  expect(message).toContain('MPI_Get_library_version')
})

test('a library of an implementation that is not known', async ({ skip }) => {
  skipWithout(skip, mpich)
  const library = compile(skip, 'UNKNOWN')
  const message = await refused(mpich, library)
  expect(message).toContain('Example 1.0')
  expect(message).toContain(library)
})

test('a library that grants MPI_THREAD_FUNNELED only', async ({ skip }) => {
  skipWithout(skip, mpich)
  const message = await refused(mpich, compile(skip, 'FUNNELED'), true)
  expect(message).toMatch(/MPICH Version: 3\.1 of a test/)
  expect(message).toContain('MPI_THREAD_SERIALIZED')
})

test('the standard ABI of MPI 5, whose handles are other ones', async ({ skip }) => {
  skipWithout(skip, mpich)
  const { code, stderr, answers } = await start(mpich, compile(skip, 'STANDARD'))
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  for (const { gathered, library } of answers) {
    expect(gathered).toEqual([0, 1])
    expect(library).toBe('Standard 5.0 of a test')
  }
})

test('an MPI_Abort that calls exit()', async ({ skip }) => {
  skipWithout(skip, mpich)
  const env = { LILY_MPI_LIBRARY: compile(skip, 'STANDARD') }
  const input: Input = { end: 'terminate the worker' }
  // The launcher has not heard of an abort, and may end with 0.
  const { stderr, left } = await runJob('ends', { library: mpich, ranks: 2, env, input })
  expect(left).toEqual([])
  expect(stderr.match(/^lily-kernels:.*$/gm)).toEqual([expect.stringContaining('without finalize()')])
})

test('a draft of the standard ABI, which has other values', async ({ skip }) => {
  skipWithout(skip, mpich)
  expect(await refused(mpich, compile(skip, 'DRAFT'))).toMatch(/draft of the standard ABI.*Standard 5\.0 of a test/)
})

test('no library: the packages of Debian, the modules of clusters, and what was tried', async () => {
  const files = ['libmpi_abi.so.0', 'libmpi_abi.so', 'libmpi.so.40', 'libmpi.so.12']
  const nothing = join(folder, 'nothing')
  mkdirSync(nothing)
  // What the dynamic linker finds first does not load.
  for (const file of files) writeFileSync(join(nothing, file), 'no library')
  const env = { PMI_RANK: '0', PMI_SIZE: '1', LILY_MPI_LIBRARY: '', LD_LIBRARY_PATH: nothing }
  const { code, answers } = await runJob('start', { library: null, env })
  const { refusal } = answers.get(0) as Answer
  expect({ code, refused: refusal?.code }).toEqual({ code: 7, refused: 'ERR_LILY_BACKEND_UNAVAILABLE' })
  for (const text of [...files, 'openmpi-bin', 'mpich', 'module load', 'LILY_MPI_LIBRARY']) {
    expect(refusal!.message).toContain(text)
  }
})
