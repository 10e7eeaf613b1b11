/** The Async forms on WebAssembly where threads do not start, end, or have no memory. The project `wasm` runs it. */
import { execFile } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import type * as package_ from '../../lib/index.js'
import { packageRoot } from '../../lib/binding/root.js'
import type { Host } from '../../lib/binding/wasm/host.js'
import { loadModule } from '../../lib/binding/wasm/load.js'
import { Module } from '../../lib/binding/wasm/module.js'
import { wasmNative } from '../../lib/binding/wasm/native.js'
import { nodeHost } from '../../lib/binding/wasm/node-host.js'
import { Operands } from '../../lib/binding/wasm/operands.js'
import { Residents } from '../../lib/binding/wasm/residents.js'
import type { ThreadStart } from '../../lib/binding/wasm/thread-script.js'
import { argumentsOf } from '../binding/encoding.js'
import { makeCall } from '../binding/fixed-calls.js'
import { expectSameBits } from '../support/compare.js'
import { smallOperands } from '../support/small.js'
import { temporaryFolder } from '../support/temporary.js'

const missing = existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))
  ? undefined
  : 'WebAssembly is not built; npm run build:wasm says why'
beforeEach((context) => {
  if (missing !== undefined) context.skip(missing)
})

/** A package of its own in such a runtime. */
async function packageOn(changes: Partial<Host>): Promise<typeof package_> {
  vi.resetModules()
  vi.doMock('../../lib/binding/load.js', () => {
    const host = { ...nodeHost, ...changes }
    return { loadBinding: () => wasmNative(loadModule(host, 'wasm'), host, 'a test') }
  })
  return import('../../lib/index.js')
}

async function expectSameResults({ lilyBackward, lilyBackwardAsync, lilyForward, lilyForwardAsync }: typeof package_) {
  const { dy, ...operands } = smallOperands()
  const expected = lilyForward(operands)
  const gradients = lilyBackward({ dy }, expected.saved)
  const { y, saved } = await lilyForwardAsync(operands)
  expectSameBits('y', y.data, expected.y.data)
  const { dx, da, dRouter, db } = await lilyBackwardAsync({ dy }, saved)
  for (const [name, value] of Object.entries({ dx, da, dRouter, db })) {
    expectSameBits(name, value.data, gradients[name as 'dx'].data)
  }
}

describe.each([
  ['shared', true],
  ['unshared', false],
])('with %s memory', (_, sharesMemory) => {
  test('the Async forms run on a thread', async () => {
    const start = vi.fn((script: string) => nodeHost.start(script))
    await expectSameResults(await packageOn({ sharesMemory, processors: 3, start }))
    // One for them, and two of the pool.
    expect(start).toHaveBeenCalledTimes(sharesMemory ? 3 : 1)
  })

  test('they run on the calling thread if the runtime has no threads', async () => {
    const start = vi.fn(() => {
      throw new Error('no threads')
    })
    await expectSameResults(await packageOn({ sharesMemory, processors: 3, start }))
    expect(start).toHaveBeenCalled()
  })

  test.each([
    ['ends', 'process.exit(1)'],
    ['fails', 'throw new Error("no threads")'],
  ])('they run on the calling thread if the thread %s before it has started', async (_, script) => {
    const start = () => nodeHost.start(script)
    await expectSameResults(await packageOn({ sharesMemory, processors: 3, start }))
  })

  test('they are rejected if the thread ends later', async () => {
    const start = (script: string) => nodeHost.start(script.replace('result = run(message)', 'process.exit(5)'))
    const { lilyForwardAsync } = await packageOn({ sharesMemory, processors: 1, start })
    const { dy: _, ...operands } = smallOperands()
    for (let i = 0; i < 2; i++) {
      await expect(lilyForwardAsync(operands)).rejects.toMatchObject({
        code: 'ERR_LILY_BACKEND_UNAVAILABLE',
        message: expect.stringMatching(/the thread of the Async forms has ended \(exit code 5\); call again/) as string,
      })
    }
  })
})

test(
  'a module that NODE_OPTIONS preloads, and that calls the package, does not run in the threads',
  { timeout: 70_000 },
  async () => {
    const preloaded = join(temporaryFolder(), 'preloaded.cjs')
    const call = `const x = lily.tensor(new Float32Array(300 * 300), [300, 300])
    lily.linearForward({ x, weight: x })`
    // A thread's console would need the event loop of the main thread.
    writeFileSync(
      preloaded,
      `process._rawDebug('preloaded'); const lily = require(${JSON.stringify(packageRoot)}); ${call}`,
    )
    const program = `import * as lily from 'lily-kernels'; ${call}; await lily.linearForwardAsync({ x, weight: x })`
    const { stderr } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program], {
      cwd: packageRoot,
      env: {
        ...process.env,
        LILY_CPU_ISA: 'wasm',
        LILY_NUM_THREADS: '3',
        NODE_OPTIONS: `--require ${JSON.stringify(preloaded)}`,
      },
      timeout: 60_000, // ends a process that starts threads forever
    })
    expect(stderr).toBe('preloaded\n')
  },
)

/** Threads of Node.js whose start message is changed. */
const startWith = (changes: Partial<ThreadStart>) => (script: string) => {
  const thread = nodeHost.start(script)
  let isStarted = false
  const post = (message: unknown) => {
    thread.post(isStarted ? message : { ...(message as ThreadStart), ...changes })
    isStarted = true
  }
  return { ...thread, post }
}

test('an Async form for which the thread has no memory is rejected', async () => {
  const { lilyForwardAsync } = await packageOn({ sharesMemory: false, start: startWith({ mostPages: [256] }) })
  const { dy: _, ...operands } = smallOperands()
  expect((await lilyForwardAsync(operands)).y.shape).toEqual([6, 4])
  const tokens = 2 ** 20
  const x = { data: new Float32Array(tokens * 5), shape: [tokens, 5] }
  await expect(lilyForwardAsync({ ...operands, x })).rejects.toMatchObject({
    code: 'ERR_LILY_OUT_OF_MEMORY',
    message: expect.stringMatching(/no memory for the thread of the Async forms: .* use smaller batches/) as string,
  })
})

test('a thread above 2 GiB computes, and reports errors', async () => {
  const module = loadModule({ ...nodeHost, processors: 2 }, 'wasm')
  // Above them are the stacks and the thread-local data of the threads, which begin with the first call. No page is touched.
  for (let i = 0; i < 9; i++) module.allocate('nothing', 2 ** 28)
  expect(module.memory.buffer.byteLength).toBeGreaterThan(2 ** 31)
  const [numbers, ...memory] = argumentsOf(makeCall('forward'))
  const operands = new Operands(module, new Residents(module), { in: 0, out: 0 }, numbers, memory)
  operands.check()
  await expect(module.run(operands.call, [])).rejects.toMatchObject({
    code: 'ERR_LILY_ARGUMENT',
    message: expect.stringContaining('the workspace must have at least') as string,
  })
  vi.resetModules()
  vi.doMock('../../lib/binding/load.js', () => ({ loadBinding: () => wasmNative(module, nodeHost, 'a test') }))
  await expectSameResults(await import('../../lib/index.js'))
})

/** Checks results where a script runs in each thread before its own. */
async function expectThreads(before: string, changes: Partial<Host>): Promise<void> {
  const messages: unknown[] = []
  const start = (script: string) => {
    const thread = nodeHost.start(`${before}\n${script}`)
    thread.onMessage((message) => messages.push(message))
    return thread
  }
  await expectSameResults(await packageOn({ ...changes, start }))
  expect(messages).toHaveLength(3) // of the start, forward and backward: the calling thread has run none of them
}

test('the thread reserves less address space where the engine has no more', async () => {
  const small = `{
    const { Memory } = WebAssembly
    WebAssembly.Memory = function (limits) {
      if (limits.maximum > 16384) throw new RangeError('no address space')
      return new Memory(limits)
    }
  }`
  await expectThreads(small, { sharesMemory: false })
})

test('the thread gets its messages where it has the functions of a page besides, as in Bun', async () => {
  await expectThreads('globalThis.postMessage = () => undefined', { processors: 1 })
})

describe('the stack of a thread is freed', () => {
  const stacks = () => {
    const allocate = vi.spyOn(Module.prototype, 'allocate')
    const release = vi.spyOn(Module.prototype, 'release')
    return () => {
      // In order: a block that is allocated after a stack was freed may have its address.
      const events = [
        ...allocate.mock.calls.map(([what], i) => {
          const address = allocate.mock.results[i].value as number
          return { order: allocate.mock.invocationCallOrder[i], address, isStack: what === 'the stack of a thread' }
        }),
        ...release.mock.calls.map(([address], i) => {
          return { order: release.mock.invocationCallOrder[i], address, isStack: false }
        }),
      ].sort((p, q) => p.order - q.order)
      vi.restoreAllMocks()
      const live = new Set<number>()
      for (const { address, isStack } of events) {
        if (isStack) live.add(address)
        else live.delete(address)
      }
      return { allocated: events.filter(({ isStack }) => isStack).length, live: live.size }
    }
  }

  test('that the runtime does not start', async () => {
    const found = stacks()
    const start = () => {
      throw new Error('no threads')
    }
    await expectSameResults(await packageOn({ processors: 3, start }))
    expect(found()).toEqual({ allocated: 2, live: 0 }) // of the pool, and of the Async forms
  })

  test('that ends before it has started', async () => {
    const found = stacks()
    const start = () => nodeHost.start('throw new Error("no threads")')
    await expectSameResults(await packageOn({ processors: 1, start }))
    await setTimeout(50) // Node.js reports the error, and then the end
    expect(found()).toEqual({ allocated: 1, live: 0 })
  })

  test('that ends later, so that another one takes its place', async () => {
    const found = stacks()
    const start = (script: string) => nodeHost.start(script.replace('result = run(message)', 'process.exit(5)'))
    const { lilyForwardAsync } = await packageOn({ processors: 1, start })
    const { dy: _, ...operands } = smallOperands()
    for (let i = 0; i < 3; i++) await expect(lilyForwardAsync(operands)).rejects.toThrow('has ended')
    expect(found()).toEqual({ allocated: 3, live: 0 })
  })
})
