/** The descriptors by which lib/ calls the addon: one list for both, and the addon's own checks. */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { descriptor, foldFields, slotFields } from '../lib/binding/descriptor.js'
import '../lib/index.js'
import { native } from '../lib/binding/native.js'
import { checkVersion } from '../lib/binding/version.js'

describe('version', () => {
  const lists = () => structuredClone(native.descriptor) as Record<string, string[]>

  test('descriptor.ts matches descriptor.h', () => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/generate-descriptor.js', '--check'], {
      encoding: 'utf8',
    })
    expect(status, stderr).toBe(0)
  })

  test('the addon has the same lists', () => {
    expect(Object.keys(native.descriptor)).toEqual(Object.keys(descriptor))
    checkVersion(native.descriptor)
  })

  test.each([
    ['a name more', { ...lists(), callFields: [...lists().callFields, 'extra'] }],
    ['a name less', { ...lists(), forwardSlots: lists().forwardSlots.slice(1) }],
    ['another order', { ...lists(), slotFields: lists().slotFields.reverse() }],
    ['a list less', { ...lists(), foldFields: undefined }],
    ['no lists', undefined],
  ])('an addon with %s is refused', (_, other) => {
    expect(() => {
      checkVersion(other as typeof native.descriptor | undefined)
    }).toThrow(
      expect.objectContaining({
        code: 'ERR_LILY_BACKEND_UNAVAILABLE',
        message: expect.stringContaining('of another version than this package') as string,
      }) as Error,
    )
  })
})

describe('fold', () => {
  const ROOM = 2 * 3 * 4
  const fold = (sizes: Partial<Record<'dOut' | 'rank' | 'experts' | 'partials', number>>, weights = true) => {
    const { dOut = 4, rank = 3, experts = 2, partials = 1 } = sizes
    const fields = Object.keys(foldFields).length
    const layers = fields + Object.keys(slotFields).length
    const numbers = new Float64Array(layers + 2)
    numbers[foldFields.dOut] = dOut
    numbers[foldFields.rank] = rank
    numbers[foldFields.experts] = experts
    numbers[fields + slotFields.pitch] = dOut
    numbers[layers] = partials
    const db = new Float32Array(ROOM)
    native.fold(numbers, db, [new Float32Array(ROOM).fill(1)], [weights ? new Float32Array([0.5, 2]) : null])
    return db
  }

  test('computes', () => {
    expect(fold({})).toEqual(new Float32Array([...new Array<number>(12).fill(0.5), ...new Array<number>(12).fill(2)]))
  })

  test.each([
    ['rank 0', { rank: 0 }, 'ERR_LILY_ARGUMENT', 'rank must be from 1 to 4096'],
    ['rank 4097', { rank: 4097 }, 'ERR_LILY_ARGUMENT', 'rank must be from 1 to 4096'],
    ['no experts', { experts: 0 }, 'ERR_LILY_ARGUMENT', 'experts must be from 1 to 64'],
    ['65 experts', { experts: 65 }, 'ERR_LILY_ARGUMENT', 'experts must be from 1 to 64'],
    ['d_out 0', { dOut: 0 }, 'ERR_LILY_ARGUMENT', 'd_out must be from 1 to 2^40'],
    ['d_out 2^41', { dOut: 2 ** 41 }, 'ERR_LILY_ARGUMENT', 'd_out must be from 1 to 2^40'],
    ['d_out NaN', { dOut: NaN }, 'ERR_LILY_ARGUMENT', 'dOut is not a whole number'],
    ['too many partials', { partials: 65 }, 'ERR_LILY_ARGUMENT', 'the number of partials does not match'],
    ['partials beyond their memory', { partials: 3 }, 'ERR_LILY_SHAPE', 'a deferred gradient has no 144 bytes'],
    ['a db beyond its memory', { experts: 3, partials: 1 }, 'ERR_LILY_SHAPE', 'weights of a deferred gradient'],
  ] as const)('%s is refused', (_, sizes, code, message) => {
    const error = expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error
    expect(() => fold(sizes)).toThrow(error)
  })

  test('without weights there is one partial per expert', () => {
    expect(() => fold({ partials: 1 }, false)).toThrow('the number of partials does not match')
    expect(fold({ partials: 2 }, false)).toEqual(new Float32Array(ROOM).fill(1))
  })
})
