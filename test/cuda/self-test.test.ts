/** The self-test at the first use of a device, with kernels that the emulator makes write wrong results. */
import { execFileSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import type { BackendInfo } from '../../lib/index.js'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
import { isEmulated } from '../support/backend.js'
import { runCli } from '../support/cli.js'
import { compileProgram } from '../support/compile.js'
import { runProgram } from '../support/program.js'
import { temporaryFolder } from '../support/temporary.js'

const LILY_SELF_TEST = '1'

/** Skips the test on a GPU. */
function needsEmulator(context: { skip: (reason: string) => void }): void {
  if (!isEmulated) context.skip('the device is a GPU, and the test requires the emulator')
}

interface Uses {
  before: BackendInfo
  errors: ({ code: string; message: string } | null)[]
  after: BackendInfo
}

test.for(['75', '90', '120'])('right results on architecture %s', async (ARCH, context) => {
  needsEmulator(context)
  const { code, stdout, text } = await runProgram('calls.js', { ARCH }, { LILY_SELF_TEST })
  expect(code, text).toBe(0)
  expect(stdout.trim(), text).toBe('null')
})

test('one problem has the largest tiles, and two in turn, whatever the number of multiprocessors', async (context) => {
  needsEmulator(context)
  const { stdout, text } = await runProgram('disabled.js', { VERBOSE: '1', SMS: '132' }, { LILY_SELF_TEST })
  expect(stdout, text).toContain('"available":true')
  // Two tiles of 128 tokens by one of 256 columns, by one block of two warpgroups.
  const launches = text.split('\n').filter((line) => /Li128ELi256E.*<<<\(1, 1, 1\), \(256, 1, 1\)/.test(line))
  for (const type of ['nv_bfloat16', 'half'])
    expect(
      launches.some((line) => line.includes(type)),
      text,
    ).toBe(true)
})

describe('a wrong result disables the device', () => {
  // A part of the names of an engine's kernels.
  test.for([
    ['Exact', 'float32'],
    ['Tf32', 'tf32'],
    ['Tensor<__nv_bfloat16', 'bfloat16'],
    ['Tensor<__half', 'float16'],
  ])('of the kernels of %s', async ([WRONG_KERNEL, engine], context) => {
    needsEmulator(context)
    const { code, stdout, text } = await runProgram('disabled.js', { WRONG_KERNEL }, { LILY_SELF_TEST })
    expect(code, text).toBe(0)
    const { before, errors, after } = JSON.parse(stdout) as Uses
    expect(before).toMatchObject({ available: true })
    expect(before.devices).toHaveLength(2)
    expect(errors).toHaveLength(4)
    for (const error of errors) {
      expect(error?.code, text).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
      expect(error?.message).toContain('cuda:0 is disabled, because its self-test found a wrong result')
      expect(error?.message).toContain(`of the ${engine} engine`)
      expect(error?.message).toContain('please report this')
    }
    // The other device was not used.
    expect(after.devices.map(({ id }) => id)).toEqual([1])
    expect(after.reason).toContain('cuda:0 is disabled')
  })

  test('but not with LILY_SELF_TEST=0', async (context) => {
    needsEmulator(context)
    const { stdout, text } = await runProgram('disabled.js', { WRONG_KERNEL: 'Exact' }, { LILY_SELF_TEST: '0' })
    const { errors, after } = JSON.parse(stdout) as Uses
    // The last use is refused for its operands.
    expect(
      errors.map((error) => error?.code ?? null),
      text,
    ).toEqual([null, null, null, 'ERR_LILY_DEVICE'])
    expect(after.devices).toHaveLength(2)
  })
})

describe('wrong results of wgmma', () => {
  // A part of the names of its kernels.
  const WRONG_KERNEL = 'Instruction)1'

  test('mma.sync computes instead', async (context) => {
    needsEmulator(context)
    const { stdout, text } = await runProgram('disabled.js', { WRONG_KERNEL }, { LILY_SELF_TEST })
    const { before, errors, after } = JSON.parse(stdout) as Uses
    expect(
      errors.map((error) => error?.code ?? null),
      text,
    ).toEqual([null, null, null, 'ERR_LILY_DEVICE'])
    expect(before.devices.map(({ without }) => without)).toEqual([undefined, undefined])
    expect(after.devices.map(({ without }) => without)).toEqual(['wgmma', undefined])
  })

  test('a graph that was captured before is refused', (context) => {
    needsEmulator(context)
    const program = compileProgram('fall_back', [], temporaryFolder())
    const text = execFileSync(program, [process.env.LILY_CUDA_LIBRARY!], { encoding: 'utf8' })
    expect(text.trim().split('\n')).toEqual([
      'before: ok',
      'fall back: ok',
      'again: the graph was captured before the self-test found wrong results of wgmma on cuda:0, which it may use; ' +
        'capture it again',
      'captured again: ok',
    ])
  })

  test('doctor says so', async (context) => {
    needsEmulator(context)
    const env = { LILY_SELF_TEST, LILY_EMULATOR_WRONG_KERNEL: WRONG_KERNEL, LILY_EMULATOR_LEAKS: '0' }
    const { code, stdout } = await runCli(['doctor'], env)
    expect(code).toBe(0)
    expect(stdout).toContain('WITHOUT wgmma')
  })
})

test('doctor reports a disabled device', async (context) => {
  needsEmulator(context)
  const env = { LILY_SELF_TEST, LILY_EMULATOR_WRONG_KERNEL: 'Exact', LILY_EMULATOR_LEAKS: '0' }
  const { code, stdout, stderr } = await runCli(['doctor', '--json'], env)
  expect(code, stderr).toBe(1)
  const { ok, backends } = JSON.parse(stdout) as Diagnosis
  expect(ok).toBe(false)
  expect(backends[1].selfTest).toMatchObject({ passed: false })
  expect(backends[1].selfTest?.reason).toContain('cuda:0 is disabled')
  const { stdout: printed } = await runCli(['doctor'], env)
  expect(printed.match(/please report this/g)).toHaveLength(1)
})
