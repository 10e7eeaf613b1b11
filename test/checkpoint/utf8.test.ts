/** The check of UTF-8 beside that of Node.js. */
import { isUtf8 as nodeIsUtf8 } from 'node:buffer'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isUtf8, textOf } from '../../lib/checkpoint/utf8.js'

/** The size of its blocks. */
const BLOCK = 1 << 16

const VALID = ['a', 'é', '€', '😀', '\ufeff', '\0'].map((text) => Buffer.from(text))
/** A lone continuation, overlong forms, a surrogate, beyond U+10FFFF, beginnings without an end. */
const INVALID = ['80', 'c080', 'c1bf', 'e08080', 'eda080', 'f4908080', 'f880808080', 'ff', 'c3', 'e282', 'f09f98']

describe('isUtf8', () => {
  it.each([0, 1, 2])('at the end of %d blocks', (blocks) => {
    for (let before = -4; before <= 1; before++) {
      const filler = Buffer.alloc(Math.max(blocks * BLOCK + before, 0), 'x')
      for (const bytes of VALID) {
        expect(isUtf8(Buffer.concat([filler, bytes])), `${before} ${bytes.toString('hex')}`).toBe(true)
        expect(isUtf8(Buffer.concat([filler, bytes, Buffer.from('x')]))).toBe(true)
      }
      for (const hex of INVALID) {
        const bytes = Buffer.from(hex, 'hex')
        expect(isUtf8(Buffer.concat([filler, bytes])), `${before} ${hex}`).toBe(false)
        expect(isUtf8(Buffer.concat([filler, bytes, Buffer.from('x')])), `${before} ${hex} x`).toBe(false)
      }
    }
  })

  it('of random bytes, as Node.js', () => {
    const anyPart = fc.oneof(
      fc.constantFrom(...VALID, ...INVALID.map((hex) => Buffer.from(hex, 'hex'))),
      fc.uint8Array({ maxLength: 3 }),
    )
    fc.assert(
      fc.property(fc.array(anyPart, { maxLength: 6 }), fc.nat({ max: 8 }), (parts, before) => {
        const bytes = Buffer.concat([Buffer.alloc(BLOCK - before, 'x'), ...parts])
        expect(isUtf8(bytes)).toBe(nodeIsUtf8(bytes))
      }),
      { numRuns: 1000 },
    )
  })
})

it('textOf keeps a byte order mark, as the files are written again as they were', () => {
  for (const text of ['', '\ufeff', '\ufeffé€😀\0']) expect(textOf(Buffer.from(text))).toBe(text)
})
