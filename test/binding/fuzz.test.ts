/**
 * The binding stands alone: no argument of any function crashes the process, traps, or makes it access memory beyond the
 * buffers that it was given. `npm run test:asan` runs this with AddressSanitizer, which sees such an access of the addon, and
 * `npm run test:long` runs a million calls.
 *
 * @asan
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { temporaryFolder } from '../support/temporary.js'
import { fuzz } from './fuzz.js'

const calls = Number(process.env.LILY_TEST_CALLS ?? 20_000)
const seed = Number(process.env.LILY_TEST_SEED ?? 1)
const first = Number(process.env.LILY_TEST_FIRST_CALL ?? 0)
// Where a hang ends.
const timeout = 300_000 * Math.max(1, calls / 20_000)

test.for([
  ['the addon', false],
  ['WebAssembly', true],
] as const)(`${calls} calls of %s, seed ${seed}`, { timeout }, async ([, wasm], context) => {
  if (wasm && !existsSync(join(packageRoot, 'build/wasm/wasm.wasm'))) {
    return context.skip('WebAssembly is not built; npm run build:wasm says why')
  }
  if (wasm && process.env.LILY_TEST_SANITIZER !== undefined) return context.skip('sanitizers see the addon alone')
  const { accepted, refused, mutatedAccepted, failure } = await fuzz({
    seed,
    first,
    count: calls,
    wasm,
    progress: join(temporaryFolder(), 'call'),
  })
  expect(failure).toBe(null)
  // A generator whose calls are all refused tests little.
  expect(accepted + refused).toBe(calls)
  expect(accepted - mutatedAccepted).toBeGreaterThan(0.2 * calls)
  expect(mutatedAccepted).toBeGreaterThan(0.05 * calls)
  expect(refused).toBeGreaterThan(0.3 * calls)
})
