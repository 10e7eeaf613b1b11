import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: { alias: { 'lily-kernels': fileURLToPath(new URL('lib/index.ts', import.meta.url)) } },
  test: {
    include: ['test/**/*.test.ts'],
    // The addon reads its environment once per process, and sanitizers need processes.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
