import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import type { Reporter } from 'vitest/node'

/** The default reporter counts skipped tests but leaves out why. */
const skipReasons: Reporter = {
  onTestCaseResult(test) {
    const result = test.result()
    if (result.state === 'skipped') console.log(`skipped: ${test.fullName}: ${result.note ?? 'no reason given'}`)
  },
}

export default defineConfig({
  resolve: { alias: { 'lily-kernels': fileURLToPath(new URL('lib/index.ts', import.meta.url)) } },
  test: {
    include: ['test/**/*.test.ts'],
    // .ci/run counts what the last one writes.
    reporters: ['default', skipReasons, ['json', { outputFile: 'build/test-results.json' }]],
    // The addon reads its environment once per process, and sanitizers need processes.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
