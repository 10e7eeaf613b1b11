import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

export default defineConfig({
  root: path('../..'),
  test: {
    name: 'mutations',
    include: ['test/mutations/*.mutations.ts'],
    pool: 'forks',
    // Two compilers at a time; each mistake is built for itself.
    maxConcurrency: 4,
    testTimeout: 900_000,
    env: { LILY_TEST_BACKEND: 'cuda', LILY_TEST_EMULATED: '1', LILY_EMULATOR_LEAKS: '0', LILY_SELF_TEST: '0' },
  },
})
