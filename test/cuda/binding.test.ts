/** No handle and no number that the binding is given crashes the process: streams, events, graphs, device memory. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fuzz } from '../binding/fuzz.js'
import { temporaryFolder } from '../support/temporary.js'

const count = 4000

test(`${count} calls of the functions for devices`, async () => {
  const progress = join(temporaryFolder(), 'call')
  const { accepted, refused, failure } = await fuzz({ seed: 1, first: 0, count, devices: true, progress })
  expect(failure).toBe(null)
  expect(accepted).toBeGreaterThan(0.3 * count)
  expect(refused).toBeGreaterThan(0.2 * count)
})
