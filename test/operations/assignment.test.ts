/**
 * Which rows each adapter of a call has.
 *
 * @project cpu
 */
import { expect, test } from 'vitest'
import { assign, gatherScale } from '../../lib/operations/assignment.js'
import { integer, randomFrom } from '../support/random.js'

/** The tokens of each adapter, and at the end those without one. */
function expectedRows(of: readonly number[], offsets: readonly number[], adapters: number): number[][] {
  const rows = Array.from({ length: adapters + 1 }, (): number[] => [])
  of.forEach((k, g) => {
    for (let t = offsets[g]; t < offsets[g + 1]; t++) rows[k < 0 ? adapters : k].push(t)
  })
  return rows
}

test('rows, runs and offsets of 300 random assignments', () => {
  const random = randomFrom(1)
  for (let turn = 0; turn < 300; turn++) {
    const [adapters, count, isPerToken] = [integer(random, 0, 4), integer(random, 0, 9), turn % 3 === 0]
    const lengths = Array.from({ length: count }, () => (isPerToken ? 1 : integer(random, 0, 3)))
    const offsets = [0, ...lengths.map((_, g) => lengths.slice(0, g + 1).reduce((sum, length) => sum + length, 0))]
    const of = lengths.map(() => integer(random, -1, adapters - 1))
    const divides = Array.from({ length: adapters }, () => random() < 0.5)
    const segments = { offsets: isPerToken ? null : Int32Array.from(offsets), count }
    const { index, rows, listed, rest } = assign(Int32Array.from(of), segments, divides)

    const expected = expectedRows(of, offsets, adapters)
    const ofSequences = divides.map((isDivided, k) => {
      if (!isDivided) return null
      const own = lengths.filter((_, g) => of[g] === k)
      return [0, ...own.map((_, g) => own.slice(0, g + 1).reduce((sum, length) => sum + length, 0))]
    })
    expect(Array.from(index)).toEqual([
      ...expected.slice(0, -1).flat(),
      ...ofSequences.flatMap((own) => own ?? []),
      ...expected[adapters],
    ])
    expect([listed, rest]).toEqual([expected.slice(0, -1).flat().length, expected[adapters].length])
    expect(rows.length).toBe(adapters)
    rows.forEach(({ start, count: rowsOf, first, offsets: own }, k) => {
      const tokens = expected[k]
      expect(Array.from(index.subarray(start, start + rowsOf))).toEqual(tokens)
      const isRun = tokens.every((t, i) => t === tokens[0] + i)
      expect(first).toBe(tokens.length === 0 ? 0 : isRun ? tokens[0] : -1)
      expect(own && Array.from(own)).toEqual(ofSequences[k])
    })

    const scale = Float32Array.from(lengths, () => random())
    const each = lengths.flatMap((length, g) => new Array<number>(length).fill(scale[g]))
    expect(gatherScale(scale, segments, { index, rows, listed, rest })).toEqual(
      Float32Array.from(expected.slice(0, -1).flat(), (t) => each[t]),
    )
  }
})
