/** The PTX of the library that the emulator executes. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { isEmulated } from '../support/backend.js'

test('a kernel without code for an architecture stops with an error, and does not leave old results', (context) => {
  if (!isEmulated) context.skip('the device is a GPU, whose library has no PTX that can be read')
  const text = readFileSync(process.env.LILY_CUDA_LIBRARY!, 'latin1')
  const kernels = text.split(/^\.visible \.entry |^\.entry /m).slice(1)
  const traps = kernels.filter((code) => /^trap;$/m.test(code))
  const silent = kernels.filter((code) => !/^(@%p\d+ )?(trap;|st\.)/m.test(code))
  expect(kernels.length).toBeGreaterThan(300)
  expect(traps.length).toBeGreaterThan(0)
  expect(silent.map((code) => code.slice(0, code.indexOf('(')))).toEqual([])
})
