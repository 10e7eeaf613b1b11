/**
 * Tests that require the emulator: injected faults, leaks, orders of execution of the streams, missing drivers.
 *
 * @long
 */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

// As queued, and another; a race is found in each.
const ORDERS = ['0', '2']

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, and the test requires the emulator')
}

describe('a missing driver', () => {
  test.for([
    ['none', 'no NVIDIA driver was found'],
    ['old', 'the NVIDIA driver is too old'],
    ['nodevice', 'shows no GPU'],
  ])('DRIVER=%s', async ([DRIVER, reason], context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('backends.js', { DRIVER })
    expect(code, text).toBe(0)
    const { cuda, errors, y } = JSON.parse(stdout) as { cuda: object; errors: string[]; y: number[] }
    expect(cuda).toMatchObject({ available: false, devices: [], reason: expect.stringContaining(reason) as string })
    for (const error of errors) {
      expect(error).toMatch(/^ERR_LILY_BACKEND_UNAVAILABLE: /)
      expect(error).toContain(reason)
    }
    expect(y).toEqual([12, 24])
  })
})

test('a device that is older than the library', async (context) => {
  needsEmulator(context)
  const { code, stdout, text } = await runProgram('backends.js', { ARCH: '70' })
  expect(code, text).toBe(0)
  const { cuda, errors, y } = JSON.parse(stdout) as { cuda: object; errors: string[]; y: number[] }
  const reason = /has compute capability 7\.0, and the CUDA backend requires 7\.5 or later/
  expect(cuda).toMatchObject({ available: false, devices: [], reason: expect.stringMatching(reason) as string })
  for (const error of errors) {
    expect(error).toMatch(/^ERR_LILY_BACKEND_UNAVAILABLE: /)
    expect(error).toMatch(reason)
  }
  expect(y).toEqual([12, 24])
})

describe('order of execution', () => {
  const programs = [
    'order.js',
    'reuse.js',
    'workers.js',
    'together.js',
    'graph.js',
    'stopped.js',
    'calls.js',
    'ending.js',
  ]
  for (const program of programs)
    for (const ORDER of ORDERS)
      test(`${program}, order ${ORDER}`, async (context) => {
        needsEmulator(context)
        const { code, stdout, text } = await runProgram(program, { ORDER })
        expect(code, text).toBe(0)
        expect(stdout.trim(), text).toBe(program === 'calls.js' ? 'null' : 'right')
      })
})

test('work that is not done is waited for, and keeps the memory that it uses', async (context) => {
  needsEmulator(context)
  const { code, stdout, text } = await runProgram('held.js', { CONTROL: temporaryFolder(), LEAKS: '0' })
  expect(code, text).toBe(0)
  expect(JSON.parse(stdout), text).toEqual({
    held: {
      kept: ['a call', 'a graph'],
      complete: [],
      query: false,
      elapsed: 'this event: is not complete; await its synchronize() first',
    },
    released: { kept: [], complete: ['event', 'graph', 'memory', 'stream'], query: true, elapsed: true },
  })
})

describe('memory', () => {
  test('beyond the size of the device', async (context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('calls.js', { MEMORY_LIMIT: '4K' })
    expect(code, text).not.toBe(0)
    expect(stdout + text).toContain('ERR_LILY_OUT_OF_MEMORY')
    expect(text).toContain('cudaErrorMemoryAllocation')
  })

  test('that a call lacks: it has advanced no state of dropout, and written nothing', async (context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('no-memory.js', { MEMORY_LIMIT: '32M' })
    expect(code, text).toBe(0)
    const [first, second] = [
      [1, 0, 0, 0],
      [1, 0, 1, 0],
    ]
    const failed = ['ERR_LILY_OUT_OF_MEMORY', first, first, true]
    expect(JSON.parse(stdout), text).toEqual({
      without: [failed, failed, failed, failed],
      with: [
        ['ran', second, first, false],
        ['ran', second, second, false],
      ],
    })
  })
})

/** The CUDA runtime calls that the output of a program names with VERBOSE=2, in order. */
function callsIn(text: string): string[] {
  return [...text.matchAll(/call (\d+)[: ]+(?:of )?(cu\w+)/g)].map(([, , name]) => name)
}

// The exit code of a process in which the emulator found a leak or an error.
const CODE_OF_FINDINGS = 99

test('after a failure of any runtime call, nothing leaks and the process is usable', async (context) => {
  needsEmulator(context)
  const calls = callsIn((await runProgram('calls.js', { VERBOSE: '2' })).text)
  expect(calls.length).toBeGreaterThan(50)
  // A process takes a second, so the test covers the first call of every function; LILY_FAULTS selects all calls.
  for (const [i, name] of calls.entries()) {
    if (process.env.LILY_FAULTS !== 'all' && calls.indexOf(name) !== i) continue
    const { code, stdout, text } = await runProgram('calls.js', { FAIL_CALL: String(i + 1) })
    const label = `call ${i + 1}, ${name}: ${text}`
    // The order of calls differs from run to run, because threads run concurrently.
    const [, failed = ''] = /call \d+, (cu\w+), fails with/.exec(text) ?? []
    // A failed free necessarily leaks, as does one that cannot look at the context or enter it.
    const frees =
      /^cuCtx|^cuDevicePrimaryCtx|^cuda(Free|StreamDestroy|EventDestroy|GraphDestroy|GraphExecDestroy)/.test(failed)
    const findings = [...text.matchAll(/FINDING \[(\w+)\]/g)].filter(([, kind]) => !frees || kind !== 'leak')
    expect(findings, label).toEqual([])
    expect(code, label).toBe(frees && code !== 0 ? CODE_OF_FINDINGS : 0)
    expect(stdout, label).toMatch(/^(null|\{.*\})$/m)
    const failure = JSON.parse(stdout) as { code: string; message: string; cudaError?: string } | null
    if (failure !== null) expect(failure.message, label).toMatch(/cudaErrorUnknown|CUDA/)
  }
}, 900_000)

test('memory of a stream that ends is not passed on before its work is done', async (context) => {
  needsEmulator(context)
  const [before] = (await runProgram('ending.js', { VERBOSE: '2' })).text.split('the stream ends')
  const count = callsIn(before).filter((name) => name === 'cudaEventCreateWithFlags').length
  // Once the stream ends, no event can be created.
  const { code, stdout, text } = await runProgram('ending.js', { FAIL_CALL: `cudaEventCreateWithFlags:${count + 1}` })
  expect(text).toContain('cudaEventCreateWithFlags, fails with')
  expect(code, text).toBe(0)
  expect(stdout.trim(), text).toBe('right')
})

// The last event before the call returns is that of the promise.
describe('a promise that cannot wait for the device rejects with LilyError', () => {
  test.for(['lilyForwardAsync', 'toHost'])('%s', async (call, context) => {
    needsEmulator(context)
    const environment = { LILY_TEST_CALL: call }
    const all = await runProgram('promise.js', { LEAKS: '0', VERBOSE: '2' }, environment)
    const [before] = all.text.split('the call has returned')
    const count = callsIn(before).filter((name) => name === 'cudaEventRecord').length
    const settings = { LEAKS: '0', FAIL_CALL: `cudaEventRecord:${count}`, FAIL_ERROR: 'cudaErrorIllegalAddress' }
    const { code, stdout, text } = await runProgram('promise.js', settings, environment)
    expect(code, text).toBe(0)
    expect(stdout.trim(), text).toBe('LilyError ERR_LILY_CUDA cudaErrorIllegalAddress')
  })
})

// Of the last three, the header of the runtime says that the process must be terminated and relaunched.
test.for(['cudaErrorIllegalAddress', 'cudaErrorContained', 'cudaErrorMpsClientTerminated', 'cudaErrorExternalDevice'])(
  'an error that invalidates the context reports it: %s',
  async (FAIL_ERROR, context) => {
    needsEmulator(context)
    const { stdout, text } = await runProgram('calls.js', { FAIL_CALL: 'cudaEventQuery:1', FAIL_ERROR })
    expect(JSON.parse(stdout), text).toMatchObject({
      code: 'ERR_LILY_CUDA',
      cudaError: FAIL_ERROR,
      message: expect.stringContaining('restart the process') as string,
    })
  },
)
