/** Replaces the tests of the cuda backend if there is neither a GPU nor the emulator. */
import { test } from 'vitest'

test('the cuda backend', (context) => {
  context.skip(process.env.LILY_TEST_CUDA_MISSING)
})
