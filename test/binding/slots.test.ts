/**
 * The numbers and operands of calls: one list for lib/ and the binding, and the binding's own checks of lists.
 *
 * @project cpu wasm
 */
import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import '../../lib/index.js'
import { native } from '../../lib/binding/native.js'
import { routing, signature, size } from '../../lib/binding/slots.js'
import { checkVersion } from '../../lib/binding/version.js'
import { layOutOnHost } from '../../lib/memory/operand.js'
import { NOTHING_SMALL, Problem } from '../../lib/operations/problem.js'
import { type Call, argumentsOf, sizesOf } from './encoding.js'
import { makeCall } from './fixed-calls.js'

describe('version', () => {
  test('slots.ts matches descriptor.h and backend.h', () => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/generate-slots.js', '--check'], {
      encoding: 'utf8',
    })
    expect(status, stderr).toBe(0)
  })

  test('the addon has the same lists', () => {
    expect(native.signature).toBe(signature)
    checkVersion(native.signature)
  })

  test.each([
    ['a name more', signature.replace('scaling;', 'scaling;extra;')],
    ['a name less', signature.replace('mask, one, tokens, uint8, read;', '')],
    ['another order', signature.replace('rows;columns;', 'columns;rows;')],
    ['another type', signature.replace('uint8', 'int32')],
    ['an operation less', signature.slice(signature.indexOf('backward:'))],
    ['no lists', undefined],
  ])('an addon with %s is refused', (_, other) => {
    expect(other).not.toBe(signature)
    expect(() => {
      checkVersion(other)
    }).toThrow(
      expect.objectContaining({
        code: 'ERR_LILY_BACKEND_UNAVAILABLE',
        message: expect.stringContaining('of another version than this package') as string,
      }) as Error,
    )
  })
})

test.each(['sequence', 'token', 'none'] as const)(
  'the sizes of a problem with routing %s are at their positions',
  (name) => {
    const [tokens, dIn, dOut, rank, experts, groups] = [
      30,
      7,
      11,
      3,
      name === 'none' ? 1 : 5,
      name === 'sequence' ? 9 : 1,
    ]
    const matrix = (rows: number, columns: number) =>
      layOutOnHost('x', new Float32Array(rows * columns), 'float32', [rows, columns])
    const [x, a, b] = [matrix(tokens, dIn), matrix(rank, dIn), matrix(experts * rank, dOut)]
    const modes = [name, 'probabilities', 'none', 'default', 1] as const
    const { sizes } = new Problem(...modes, x, a, null, b, dOut, experts, groups, NOTHING_SMALL, 0)
    const expected = sizesOf({ tokens, dIn, dOut, rank, experts, groups, routing: routing[name] })
    expect(sizes).toEqual(expected.slice(0, sizes.length))
    expect(Object.keys(size).slice(sizes.length)[0]).toBe('depth')
  },
)

/** Runs a call that is refused, and returns the error. */
function errorOf(call: Call): unknown {
  try {
    native.run(...argumentsOf(call))
  } catch (error) {
    return error
  }
  throw new Error('the call was not refused')
}

const error = (code: string, message: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(message) as string }) as Error

describe('fold', () => {
  const SIZES = { dOut: 4, rank: 3, experts: 2, partials: 1 }
  const fold = (without: string[] = [], sizes: Partial<typeof SIZES> = {}) => {
    const call = makeCall('fold', { ...SIZES, ...sizes }, without)
    const { partials, weights } = call.items[0].slots
    ;(partials.memory as Float32Array).fill(1)
    if (!without.includes('weights')) (weights.memory as Float32Array).set([0.5, 2])
    return call
  }
  const resultOf = (call: Call) => {
    native.run(...argumentsOf(call))
    return call.slots.db.memory
  }

  test('computes', () => {
    expect(resultOf(fold())).toEqual(
      new Float32Array([...new Array<number>(12).fill(0.5), ...new Array<number>(12).fill(2)]),
    )
  })

  test.each([
    ['rank 0', { rank: 0 }, 'rank must be from 1 to 4096'],
    ['rank 4097', { rank: 4097 }, 'rank must be from 1 to 4096'],
    ['no experts', { experts: 0 }, 'experts must be from 1 to 64'],
    ['65 experts', { experts: 65 }, 'experts must be from 1 to 64'],
    ['d_out 0', { dOut: 0 }, 'd_out must be from 1 to 2^40'],
    ['d_out 2^41', { dOut: 2 ** 41 }, 'd_out must be from 1 to 2^40'],
    ['d_out NaN', { dOut: NaN }, 'dOut is not a whole number'],
  ])('%s is refused', (_, sizes, message) => {
    const call = fold()
    Object.assign(call.numbers, sizes)
    expect(errorOf(call)).toEqual(error('ERR_LILY_ARGUMENT', message))
  })

  test('partials beyond the experts or their memory are refused', () => {
    const call = fold()
    const { partials, weights } = call.items[0].slots
    partials.rows = 65
    expect(errorOf(call)).toEqual(error('ERR_LILY_ARGUMENT', 'the number of partials does not match'))
    partials.rows = weights.rows = 3
    expect(errorOf(call)).toEqual(error('ERR_LILY_SHAPE', 'partials has no 144 bytes'))
    partials.rows = 1
    expect(errorOf(call)).toEqual(error('ERR_LILY_SHAPE', 'weights must have 1 rows of 2 elements'))
  })

  test('without weights there is one partial per expert', () => {
    expect(errorOf(fold(['weights']))).toEqual(error('ERR_LILY_ARGUMENT', 'the number of partials does not match'))
    expect(resultOf(fold(['weights'], { partials: 2 }))).toEqual(new Float32Array(24).fill(1))
  })
})

describe('adamw', () => {
  test('a value decides how many elements its gradient and moments have', () => {
    const call = makeCall('adamw', { elements: 3 })
    call.items[0].slots.value.columns = 2
    expect(errorOf(call)).toEqual(error('ERR_LILY_SHAPE', 'grad must have 1 rows of 2 elements, not 1 of 3'))
  })

  test('every parameter has its own numbers', () => {
    const call = makeCall('adamw', {}, ['norm', 'skipped'])
    const still = makeCall('adamw').items[0]
    still.numbers.lr = 0
    call.items.push(still)
    native.run(...argumentsOf(call))
    const [moved, unmoved] = call.items.map(({ slots }) => [...(slots.value.memory as Float32Array)])
    expect(unmoved).toEqual([7, 7, 7, 7])
    expect(moved).not.toEqual(unmoved)
  })
})
