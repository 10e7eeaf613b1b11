/** Replaces the tests of a project where something that it requires is missing. .ci/run fails where the gate has it. */
import { test } from 'vitest'

test('what the tests require', (context) => {
  context.skip(process.env.LILY_TEST_MISSING)
})
