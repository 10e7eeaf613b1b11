/** No header of the permitted size keeps a process busy, or takes its memory. */
import { describe, expect, it } from 'vitest'
import { HEADERS, openHostile } from '../support/hostile-headers.js'

const MOST_BYTES = 1e9

describe('a header of 32 MiB', () => {
  it.for(Object.keys(HEADERS))('of %s', async (name, { skip }) => {
    if (process.platform !== 'linux') skip('/proc says how much memory a process has had, and is on Linux alone')
    // One that keeps it busy, in time that grows with the square of the size, exceeds the time of a test.
    const { bytes, refused } = await openHostile(name)
    expect(bytes).toBeLessThan(MOST_BYTES)
    expect((refused ?? '').length).toBeLessThan(800)
    expect(refused === null, refused ?? '').toBe(name.includes('permitted'))
  })
})
