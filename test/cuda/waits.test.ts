/** Promises that wait for work which the emulator holds: they occupy no thread of libuv, and all of them settle. */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, and the test requires the emulator')
}

describe('sixteen pending waits', () => {
  for (const UV_THREADPOOL_SIZE of ['1', '4']) {
    const CONTROL = temporaryFolder()
    test(`do not delay the reading of a file with UV_THREADPOOL_SIZE=${UV_THREADPOOL_SIZE}`, async (context) => {
      needsEmulator(context)
      const { code, stdout, text } = await runProgram('waiting.js', { CONTROL, LEAKS: '0' }, { UV_THREADPOOL_SIZE })
      expect(code, text).toBe(0)
      expect(stdout.trim(), text).toBe('right')
    })
  }

  // Counted from the start of the program: the first of the waits asks, or a later one.
  for (const call of [1, 5, 40]) {
    const CONTROL = temporaryFolder()
    test(`reject with the error of CUDA when the device fails, query ${call}`, async (context) => {
      needsEmulator(context)
      const { code, stdout, text } = await runProgram('failing.js', {
        CONTROL,
        FAIL_CALL: `cudaEventQuery:${call}`,
        FAIL_ERROR: 'cudaErrorIllegalAddress',
      })
      expect(code, text).toBe(0)
      expect(JSON.parse(stdout), text).toEqual(Array(16).fill(['ERR_LILY_CUDA', 'cudaErrorIllegalAddress']))
    })
  }

  const CONTROL = temporaryFolder()
  test('do not keep a worker or the process from ending', async (context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('leaving.js', { CONTROL, LEAKS: '0' })
    expect(code, text).toBe(0)
    expect(stdout.trim(), text).toBe('right')
  })
})
