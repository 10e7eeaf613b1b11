/**
 * Programmatic dependent launch. A launch may overlap with the one before if both belong to one call and the kernels wait
 * for each other, which they do from compute capability 9.0 on. All other tests of the cuda backend check on the emulator
 * that a kernel touches nothing too early.
 */
import { describe, expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'
import { runProgram } from '../support/program.js'

interface Call {
  readonly name: string
  /** For each launch, whether it may overlap with the one before. */
  readonly dependent: readonly boolean[]
}

/** The calls that launches.js announces. */
async function callsOf(ARCH: string): Promise<Call[]> {
  const { code, text } = await runProgram('launches.js', { VERBOSE: '1', ARCH })
  expect(code, text).toBe(0)
  return text
    .split(/^call /m)
    .slice(1)
    .map((section) => {
      const [name, ...lines] = section.split('\n')
      const launches = lines.filter((line) => line.includes('<<<'))
      return { name, dependent: launches.map((line) => line.endsWith(', dependent')) }
    })
    .filter(({ name }) => name !== 'nothing')
}

const KINDS = ['forward', 'backward', 'fold', 'graph', 'AdamW']
const CASES = ['batch', 'sequence', 'few tokens', 'large rank']
const DEFAULT_STREAMS = ['stream 1', 'stream 2']
const NAMES = [...CASES.flatMap((name) => KINDS.map((kind) => `${kind}, ${name}`)), ...DEFAULT_STREAMS, 'linear']
const ONE_LAUNCH = /^(fold|linear)/

describe('dependent launches', () => {
  test.for(['90', '120'])(
    "on sm_%s all but the first of each call, none in CUDA's default streams",
    async (ARCH, context) => {
      if (!isEmulated) context.skip('the device is a GPU, which does not report launches')
      const calls = await callsOf(ARCH)
      expect(calls.map(({ name }) => name)).toEqual(NAMES)
      for (const { name, dependent } of calls) {
        expect(dependent[0], name).toBe(false)
        if (!ONE_LAUNCH.test(name)) expect(dependent.length, name).toBeGreaterThan(1)
        expect(dependent.slice(1), name).not.toContain(DEFAULT_STREAMS.includes(name))
      }
    },
  )

  test('none on an earlier architecture', async (context) => {
    if (!isEmulated) context.skip('the device is a GPU, which does not report launches')
    const calls = await callsOf('75')
    expect(calls.map(({ name }) => name)).toEqual(NAMES)
    for (const { name, dependent } of calls) {
      expect(dependent.length, name).toBeGreaterThan(0)
      expect(dependent, name).not.toContain(true)
    }
  })
})

test('a capture begins by loading all kernels, and calls in it load none', async (context) => {
  if (!isEmulated) context.skip('the device is a GPU, which does not report what is loaded')
  const { code, text } = await runProgram('loading.js', { VERBOSE: '2', LEAKS: '0' })
  expect(code, text).toBe(0)
  const [before, captured = ''] = text.split(/cudaStream(?:Begin|End)Capture/)
  const loads = (of: string) => [...of.matchAll(/loads the kernel .*/g)].map(([line]) => line)
  expect(loads(before).length).toBeGreaterThan(90)
  expect(captured.match(/: cudaLaunchKernelExC/g)?.length).toBeGreaterThan(100)
  expect(loads(captured)).toEqual([])
})
