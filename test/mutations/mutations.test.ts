/**
 * Whether every mistake of mutations.ts has its place in the kernels, which `npm run test:mutations` finds out only after
 * minutes: a change of a kernel also changes the mistakes there.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { temporaryFolder } from '../support/temporary.js'
import { copySources } from './build.js'
import { mutations } from './mutations.js'

const folder = temporaryFolder()

it('every mistake replaces what its file has once', () => {
  copySources(folder)
  const misplaced = mutations.filter(
    ({ file, find }) => readFileSync(join(folder, 'native/cuda', file), 'utf8').split(find).length !== 2,
  )
  expect(misplaced).toEqual([])
  expect(mutations.filter(({ find, replace }) => find === replace)).toEqual([])
  // The name of a test selects it.
  expect(new Set(mutations.map(({ file, what }) => `${file}: ${what}`)).size).toBe(mutations.length)
})
