/**
 * Many workers in one process: results are bit-equal, and terminating workers during calls does not affect others.
 *
 * @tsan
 */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { isSanitized } from '../support/backend.js'
import { isLong } from '../support/runs.js'

// With a sanitizer, workers take several times as long.
const workers = isLong ? 200 : isSanitized ? 30 : 60
const folder = fileURLToPath(new URL('workers', import.meta.url))
// A crash gives a rejection, because the exit code is not 0.
const node = (...args: string[]) => promisify(execFile)(process.execPath, args, { cwd: folder })

describe('worker threads', () => {
  it(`${workers} workers, half of them terminated during a call`, { timeout: 170_000 }, async () => {
    const { stdout } = await node('main.js', String(workers))
    expect(JSON.parse(stdout)).toEqual({
      right: workers / 2,
      wrong: 0,
      stopped: workers / 2,
      failed: 0,
      afterwards: true,
    })
  })

  it('a process may exit with calls pending', async () => {
    const script = `import { longCalls } from './calls.js'
      const calls = longCalls()
      for (let i = 0; i < 8; i++) void calls.async()
      setImmediate(() => process.exit(0))`
    const { stderr } = await node('--input-type=module', '-e', script)
    expect(stderr).toBe('')
  })
})
