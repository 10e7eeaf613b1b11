/** Nothing is kept of 10,000 forward/backward pairs, and V8 knows what results weigh while they live. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

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
// The checks and the quarantine of a sanitizer hold memory of their own.
const sanitizer = process.env.LILY_TEST_SANITIZER
const folder = fileURLToPath(new URL('programs', import.meta.url))

/** Fails where LeakSanitizer finds one when the process ends, if AddressSanitizer is in it. */
async function pairs(way: string): Promise<Report> {
  const ASAN_OPTIONS = `${process.env.ASAN_OPTIONS ?? ''}:detect_leaks=1`
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', 'pairs.js', way], {
    cwd: folder,
    env: { ...process.env, ASAN_OPTIONS },
  })
  return JSON.parse(stdout) as Report
}

describe('10,000 pairs of a forward and a backward', () => {
  for (const way of ['disposed', 'dropped', 'promised', 'folded', 'lora', 'refused'])
    test(way, { timeout: 300_000 }, async () => {
      const { before, after, peak, keeping, keptBytes } = await pairs(way)
      // Less than one y, and a few bytes of JavaScript per pair.
      expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(64 * KB)
      expect(after.external - before.external).toBeLessThan(64 * KB)
      expect(after.heapUsed - before.heapUsed).toBeLessThan(1 * MB)
      // Results that live are counted, all of their bytes and little more.
      for (const name of ['arrayBuffers', 'external'] as const) {
        expect(keeping[name] - after[name]).toBeGreaterThanOrEqual(keptBytes)
        expect(keeping[name] - after[name]).toBeLessThan(keptBytes + 1 * MB)
      }
      if (sanitizer !== undefined) return
      // The allocator keeps some of what it is given back. All results together are more than a gigabyte: were V8 not
      // told of them, it would collect too late.
      expect(after.rss - before.rss).toBeLessThan(64 * MB)
      expect(peak - before.rss).toBeLessThan(256 * MB)
    })
})
