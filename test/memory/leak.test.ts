/**
 * Thousands of pairs of forward and backward leak nothing, and V8 accounts for the memory of live results.
 *
 * @asan
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { isSanitized } from '../support/backend.js'
import { isLong } from '../support/runs.js'

interface Held {
  arrayBuffers: number
  external: number
  heapUsed: number
  rss: number
}
interface Report {
  before: Held
  after: Held
  peak: number
  keeping: Held
  keptBytes: number
}

const KB = 1024
const MB = 1024 * KB
// A sanitizer holds additional memory, for its checks and its quarantine.
const sanitizer = process.env.LILY_TEST_SANITIZER
const count = isLong ? 10_000 : isSanitized ? 700 : 3000
const folder = fileURLToPath(new URL('../programs', import.meta.url))

/** With AddressSanitizer, it also fails if LeakSanitizer finds a leak when the process exits. */
async function pairs(way: string): Promise<Report> {
  const ASAN_OPTIONS = `${process.env.ASAN_OPTIONS ?? ''}:detect_leaks=1`
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', 'pairs.js', way, String(count)], {
    cwd: folder,
    env: { ...process.env, ASAN_OPTIONS },
  })
  return JSON.parse(stdout) as Report
}

describe('pairs of forward and backward', () => {
  for (const way of ['disposed', 'dropped', 'promised', 'folded', 'lora', 'refused'])
    test(way, async () => {
      const { before, after, peak, keeping, keptBytes } = await pairs(way)
      // Less than one y, and a few bytes of JavaScript per pair.
      expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(64 * KB)
      expect(after.external - before.external).toBeLessThan(64 * KB)
      expect(after.heapUsed - before.heapUsed).toBeLessThan(1 * MB)
      // V8 counts all bytes of live results, and little more.
      for (const name of ['arrayBuffers', 'external'] as const) {
        expect(keeping[name] - after[name]).toBeGreaterThanOrEqual(keptBytes)
        expect(keeping[name] - after[name]).toBeLessThan(keptBytes + 1 * MB)
      }
      if (sanitizer !== undefined) return
      // The allocator caches some freed memory. All results together take 400 MB: without accounting, V8 would
      // collect them too late.
      expect(after.rss - before.rss).toBeLessThan(64 * MB)
      expect(peak - before.rss).toBeLessThan(256 * MB)
    })
})
