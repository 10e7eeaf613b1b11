/**
 * The prebuilt addon, and WebAssembly, on an arm64 processor: threads, workers, promises.
 *
 * @long
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { runInChild } from '../support/child.js'
import { asyncConsumer, expected, workersConsumer } from '../support/consumer.js'
import { isLong } from '../support/runs.js'
import { fewJobs, jobs } from '../support/instruction-sets.js'
import { findProgram } from '../support/find-program.js'
import { tileLoops } from '../support/loops.js'
import { arm64Processor, type Processor } from '../support/processors.js'

describe('linux-arm64', () => {
  let processor: Processor | string
  beforeAll(() => {
    processor = arm64Processor()
  }, 600_000)

  test('results are bit-equal with any number of threads', { timeout: 600_000 }, async (context) => {
    if (typeof processor === 'string') return context.skip(processor)
    // Few problems, with several tasks each: under QEMU, spinning threads take time from computing ones.
    const wide = jobs.filter(({ spec }) => spec.tokens === 130 && spec.activations === undefined)
    const some = wide.filter((_, i) => isLong || i % 3 === 0)
    const one = await runInChild(some, { LILY_NUM_THREADS: '1' }, processor)
    const two = await runInChild(some, { LILY_NUM_THREADS: '2' }, processor)
    expect([one, two].map(({ backend }) => backend.devices[0].threads)).toEqual([1, 2])
    expect(two.results).toEqual(one.results)
  })

  test('WebAssembly with SIMD128 has the bits of this processor', { timeout: 600_000 }, async (context) => {
    if (typeof processor === 'string') return context.skip(processor)
    if (!existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))) {
      return context.skip('WebAssembly is not built; npm run build:wasm says why')
    }
    const env = { LILY_CPU_ISA: 'wasm', LILY_NUM_THREADS: '1' }
    const some = fewJobs.filter((_, i) => isLong || i % 3 === 0)
    const here = await runInChild(some, env)
    const there = await runInChild(some, env, arm64Processor('WebAssembly') as Processor)
    expect([here, there].map(({ backend }) => backend.devices[0].simd)).toEqual(['wasm', 'wasm'])
    expect(there.results).toEqual(here.results)
  })

  test('the sums of a register tile stay in registers', (context) => {
    const build = join(packageRoot, 'build/prebuild/linux-arm64/build/cmake')
    const file = join(build, 'CMakeFiles/lily.dir/native/cpu/kernels_neon.cc.o')
    const objdump = 'aarch64-linux-gnu-objdump'
    if (!existsSync(file)) return context.skip(`there is no ${file}; npm run test:arm64 says why`)
    if (findProgram(objdump) === undefined) return context.skip(`no ${objdump} (Debian: g++-12-aarch64-linux-gnu)`)
    const loops = tileLoops(objdump, file)
    expect(loops.length).toBeGreaterThan(4)
    expect(loops.filter(({ spills }) => spills.length > 0)).toEqual([])
  })

  describe('from the built package', () => {
    // Inside the checkout, where the name of the package resolves to dist/.
    const folder = mkdtempSync(join(packageRoot, 'build', 'arm64-'))
    afterAll(() => rmSync(folder, { recursive: true }))

    test.for<[title: string, file: string, source: string, results: unknown]>([
      ['async calls', 'async.mjs', asyncConsumer, expected],
      ['four concurrent workers', 'workers.mjs', workersConsumer, new Array(5).fill(expected)],
    ])('%s', ([, file, source, results], context) => {
      if (typeof processor === 'string') return context.skip(processor)
      writeFileSync(join(folder, file), source)
      const [program, ...options] = processor.command
      const env = { ...process.env, ...processor.env, LILY_NUM_THREADS: '2' }
      expect(JSON.parse(execFileSync(program, [...options, file], { cwd: folder, env, encoding: 'utf8' }))).toEqual(
        results,
      )
    })
  })
})
