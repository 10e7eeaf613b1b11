/** Replaces the tests of WebGPU if there is no adapter. */
import { expect, test } from 'vitest'

test('WebGPU', (context) => {
  expect(process.env.CI, process.env.LILY_TEST_WEBGPU_MISSING).toBeUndefined()
  context.skip(process.env.LILY_TEST_WEBGPU_MISSING)
})
