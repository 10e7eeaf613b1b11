/** What `vitest` is in a bundle of portable suites: its runner and its matchers, which need no Node.js. */
import { chai, JestAsymmetricMatchers, JestChaiExpect, JestExtend } from '@vitest/expect'

for (const plugin of [JestExtend, JestChaiExpect, JestAsymmetricMatchers]) chai.use(plugin)

export const { expect } = chai
export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from '@vitest/runner'
