/** Contexts on the emulator, which prints the call that creates one. No device gets a context that the program does not use. */
import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { type Ended, runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

const CONTROL = temporaryFolder()

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, and the test requires the emulator')
}

/** The devices whose context was created, in order. */
const contextsOf = ({ text }: Ended) =>
  [...text.matchAll(/creates the primary context of device (\d+)/g)].map(([, device]) => Number(device))

describe('the devices that get a context', () => {
  test('none, if they are only listed', async (context) => {
    needsEmulator(context)
    const ended = await runProgram('listing.js', { VERBOSE: '1' })
    expect(ended.code, ended.text).toBe(0)
    expect(ended.stdout.trim()).toBe('2')
    expect(contextsOf(ended), ended.text).toEqual([])
  })

  test.for([
    ['0', '0'],
    ['1', '1'],
  ])('only cuda:%s, if it is used, with LILY_SELF_TEST=%s', async ([device, LILY_SELF_TEST], context) => {
    needsEmulator(context)
    const ended = await runProgram('calls.js', { VERBOSE: '1' }, { LILY_TEST_DEVICE: device, LILY_SELF_TEST })
    expect(ended.code, ended.text).toBe(0)
    expect(ended.stdout.trim()).toBe('null')
    expect(contextsOf(ended), ended.text).toEqual([Number(device)])
  })
})

describe('after other code of the process has reset the device', () => {
  for (const LILY_TEST_RESET of ['reset', 'restart'])
    test(`every call says so, and releasing works: ${LILY_TEST_RESET}`, async (context) => {
      needsEmulator(context)
      const { code, stdout, text } = await runProgram('reset.js', { CONTROL }, { LILY_TEST_RESET })
      expect(code, text).toBe(0)
      expect(existsSync(`${CONTROL}/${LILY_TEST_RESET}`), 'the emulator did not see the file').toBe(false)
      const { errors, texts } = JSON.parse(stdout) as { errors: number; texts: string[] }
      expect(errors).toBe(14)
      expect(texts, text).toHaveLength(errors)
      for (const each of texts) {
        expect(each).toMatch(/^ERR_LILY_CUDA cudaErrorContextIsDestroyed /)
        expect(each).toContain('cuda:0 was reset by other code of this process')
        expect(each).toContain('restart the process')
      }
    })

  test('a new environment uses it again, and kernels get their attributes again', async (context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('renewing.js', { CONTROL, VERBOSE: '2' })
    expect(code, text).toBe(0)
    expect(stdout.trim(), text).toBe('right')
    expect(text.match(/: cudaFuncSetAttribute$/gm)?.length, text).toBeGreaterThanOrEqual(3)
  })
})
