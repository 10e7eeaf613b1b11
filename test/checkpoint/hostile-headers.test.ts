/** No header of the permitted size keeps a process busy, or takes its memory. */
import { describe, expect, it } from 'vitest'
import { HEADERS, openHostile } from '../support/hostile-headers.js'

/** Of a processor that other tests use, too. */
const MOST_MILLISECONDS = 3000

const MOST_BYTES = 1e9

describe('a header of 32 MiB', () => {
  it.for(Object.keys(HEADERS))('of %s', async (name, { skip }) => {
    if (process.platform !== 'linux') skip('/proc says how much memory a process has had, and is on Linux alone')
    const { milliseconds, bytes, refused } = await openHostile(name)
    expect(milliseconds).toBeLessThan(MOST_MILLISECONDS)
    expect(bytes).toBeLessThan(MOST_BYTES)
    expect((refused ?? '').length).toBeLessThan(800)
    expect(refused === null, refused ?? '').toBe(name.includes('permitted'))
  })
})
