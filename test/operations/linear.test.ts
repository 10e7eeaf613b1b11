/**
 * Frozen linear layers, compared with the reference: types, sizes, layouts, packed weights.
 *
 * @project cpu amx wasm cuda @asan
 */
import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import {
  cast,
  linearBackward,
  linearForward,
  linearForwardAsync,
  loraBackward,
  loraForward,
  packLinear,
  PackedLinear,
  tensor,
} from '../../lib/index.js'
import { backend, isEmulated, isModelled, isSanitized, isSlow } from '../support/backend.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { TYPES, unpack } from '../support/dtypes.js'
import { expectMatches, jobsOf } from '../support/linear-check.js'
import { type LinearHow, type LinearResult, type LinearSpec, makeLinear, runLinear } from '../support/linear.js'
import { gaussian, randomFrom } from '../support/random.js'
import { everyNth, problems } from '../support/runs.js'
import { expectRefused } from '../refusals/refused.js'

/** Every combination of types but those of gradients, which this operation does not compute. */
const TYPES_OF_LAYERS = Object.entries(TYPES).filter(([, { gradients }]) => gradients === undefined)
/** On the emulator two of them. */
const SOME_TYPES = everyNth(isEmulated ? 4 : 1, TYPES_OF_LAYERS, 1)

describe('matches the reference', () => {
  for (const [i, [name, types]] of TYPES_OF_LAYERS.entries()) {
    test(name, async () => {
      for (const job of everyNth(isEmulated ? 2 : 1, jobsOf([types]), i))
        expectMatches(job, await runLinear(makeLinear(job.spec), job.how))
    })
  }

  const layout = fc.record({ gap: fc.constantFrom(0, 0, 1, 3, 16), margin: fc.constantFrom(0, 1, 5) })
  test('random problems', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          tokens: fc.integer({ min: 0, max: 40 }),
          dIn: fc.oneof(fc.integer({ min: 1, max: 80 }), fc.constantFrom(255, 256, 300)),
          dOut: fc.oneof(fc.integer({ min: 1, max: 80 }), fc.constantFrom(128, 257)),
          bias: fc.boolean(),
          seed: fc.integer(),
          types: fc.constantFrom(...TYPES_OF_LAYERS.map(([, types]) => types)),
        }),
        fc.record({
          layout: fc.record({ x: layout, weight: layout, bias: layout, dy: layout, y: layout, dx: layout }),
          outputs: fc.constantFrom('new', 'add', 'overwrite'),
          packed: fc.boolean(),
          isAsync: fc.boolean(),
        }),
        async ({ types, ...sizes }, how) => {
          const spec = { ...sizes, ...types }
          expectMatches({ spec, how }, await runLinear(makeLinear(spec), how))
        },
      ),
      problems(isEmulated ? 8 : 20, isSlow ? 40 : 150),
    )
  })

  // Few tokens read the weight in place, and neither old contents nor a bias begin the sums of the first chunk.
  test.each(SOME_TYPES)('several chunks of few tokens, %s', async (_, types) => {
    for (const [dIn, dOut] of [
      [1100, 19],
      [19, 1100],
    ]) {
      const spec = { tokens: 3, dIn, dOut, ...types, seed: 1 }
      const how = { outputs: 'overwrite' } as const
      expectMatches({ spec, how }, await runLinear(makeLinear(spec), how))
    }
  })

  test('no tokens', async () => {
    const { y, dx } = await runLinear(makeLinear({ tokens: 0, dIn: 5, dOut: 3, seed: 1 }), { packed: true })
    expect([y.length, dx.length]).toEqual([0, 0])
  })
})

describe('the bits', () => {
  const spec: LinearSpec = { tokens: 67, dIn: 300, dOut: 213, bias: true, seed: 1 }
  const ofTypes = SOME_TYPES.map(([name, types]) => [name, { ...spec, ...types }] as const)
  const expectSame = (actual: LinearResult, expected: LinearResult, title: string) => {
    for (const name of ['y', 'dx'] as const) expectSameBits(`${name} ${title}`, actual[name], expected[name])
  }

  test.each(ofTypes)('of %s do not depend on layout, packing, leading dimensions and thread', async (_, problem) => {
    const layout = { gap: 3, margin: 1 }
    // Few tokens read the weight in place.
    for (const tokens of isSlow ? [67] : [67, 5]) {
      const made = () => makeLinear({ ...problem, tokens })
      const expected = await runLinear(made(), { outputs: 'overwrite' })
      for (const how of [
        { outputs: 'new' },
        { outputs: 'overwrite', packed: true },
        { outputs: 'overwrite', isAsync: true },
        { outputs: 'overwrite', leading: [tokens, 1] },
        {
          outputs: 'overwrite',
          layout: { x: layout, weight: layout, bias: layout, dy: layout, y: layout, dx: layout },
        },
      ] satisfies LinearHow[]) {
        expectSame(await runLinear(made(), how), expected, `of ${tokens} tokens, ${JSON.stringify(how)}`)
      }
    }
  })

  const halves = ['bfloat16', 'float16'] as const
  // On the CPU up to eight tokens read the weight in place.
  test.each(halves)('of a weight in %s under float32 are those of the weight in float32', async (parameters) => {
    const layout = { gap: 3, margin: 1 }
    const types = { parameters, precision: isModelled ? 'tf32' : 'default' } as const
    const packed = backend === 'cpu'
    const counts =
      packed && !isModelled && !isSanitized ? [1, 2, 3, 4, 5, 6, 7, 8, 9, 67] : packed ? [1, 9, 67] : [1, 67]
    for (const tokens of counts) {
      const made = makeLinear({ ...spec, dIn: isEmulated ? spec.dIn : 530, ...types, tokens })
      const expected = await runLinear(made, { outputs: 'add', packed, widened: true })
      for (const how of [{}, { packed }, { layout: { weight: layout, bias: layout } }] satisfies LinearHow[]) {
        expectSame(await runLinear(made, { outputs: 'add', ...how }), expected, `of ${tokens} tokens`)
      }
    }
  })

  if (backend === 'cpu') {
    test.each(halves)('of every number in %s are those of the number itself', (dtype) => {
      const data = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits)
      const expected = unpack(dtype, data).map((number) => number + 0)
      const expectNumbers = (actual: Float32Array) => {
        const row = actual.subarray(-expected.length)
        expect(row.findIndex((number, i) => !Object.is(number, expected[i]))).toBe(-1)
      }
      for (const tokens of [1, 9]) {
        const x = { data: new Float32Array(tokens).fill(1), shape: [tokens, 1] }
        const column = linearForward({ x, weight: { data, dtype, shape: [2 ** 16, 1] } }).y.data as Float32Array
        expectNumbers(column)
        const row = linearBackward({ dy: x, weight: { data, dtype, shape: [1, 2 ** 16] } }).dx.data as Float32Array
        expectNumbers(row)
      }
    })
  }

  test.each(ofTypes)('of a row of %s do not depend on the other rows', async (_, problem) => {
    const all = makeLinear(problem)
    const expected = await runLinear(all)
    const { dIn, dOut } = problem
    for (const [first, count] of [
      [0, 1],
      [5, 1],
      [7, 8],
      [30, 37],
    ]) {
      const part = {
        ...all,
        tokens: count,
        x: Array.from(all.x).slice(first * dIn, (first + count) * dIn),
        dy: Array.from(all.dy).slice(first * dOut, (first + count) * dOut),
      }
      for (const packed of [false, true]) {
        const { y, dx } = await runLinear(part, { packed })
        expectSameBits('y', y, expected.y.slice(first * dOut, (first + count) * dOut))
        expectSameBits('dx', dx, expected.dx.slice(first * dIn, (first + count) * dIn))
      }
    }
  })
})

describe('packLinear', () => {
  const [tokens, dIn, dOut] = [3, 20, 12]
  const random = randomFrom(1)
  const matrix = (rows: number, columns: number) => ({
    data: gaussian(random, rows * columns),
    shape: [rows, columns],
  })

  it('packs each direction when it is first used, and refers to the weight', () => {
    const weight = matrix(dOut, dIn)
    const packed = packLinear(weight)
    expect(packed).toBeInstanceOf(PackedLinear)
    expect([packed.shape, packed.dtype, packed.device]).toEqual([[dOut, dIn], 'float32', { type: 'cpu', id: 0 }])
    expect(packed.byteLength).toBe(0)
    linearForward({ x: matrix(tokens, dIn), weight: packed })
    const forward = packed.byteLength
    expect(forward).toBeGreaterThanOrEqual(4 * dIn * dOut)
    linearForward({ x: matrix(1, dIn), weight: packed })
    expect(packed.byteLength).toBe(forward)
    linearBackward({ dy: matrix(tokens, dOut), weight: packed })
    expect(packed.byteLength).toBeGreaterThan(forward)
  })

  it('has a form for each type of x and each precision: the bits are those of the weight itself', () => {
    const weight = matrix(dOut, dIn)
    const packed = packLinear(weight)
    for (const dtype of ['float32', 'bfloat16', 'float16'] as const) {
      // More tokens than are multiplied without a form.
      const [x, dy] = [matrix(9, dIn), matrix(9, dOut)].map((operand) => cast(operand, dtype))
      for (const precision of ['default', 'high', 'tf32', 'default'] as const) {
        const title = `${dtype}, ${precision}`
        const { y } = linearForward({ x, weight: packed }, { precision })
        expectSameBits(`y ${title}`, y.data, linearForward({ x, weight }, { precision }).y.data)
        const { dx } = linearBackward({ dy, weight: packed }, { precision })
        expectSameBits(`dx ${title}`, dx.data, linearBackward({ dy, weight }, { precision }).dx.data)
      }
    }
  })

  it('of a transposed weight is that of the weight, forward and backward, alone and below adapters', async () => {
    const [tokens, dIn, dOut] = [33, 70, 50]
    const weight = matrix(dOut, dIn)
    const columns = Float32Array.from(
      { length: dIn * dOut },
      (_, i) => weight.data[(i % dOut) * dIn + Math.floor(i / dOut)],
    )
    const packed = packLinear({ data: columns, shape: [dIn, dOut] }, { transposed: true })
    expect(packed.shape).toEqual([dOut, dIn])
    const bias = { data: gaussian(random, dOut), shape: [dOut] }
    for (const m of [tokens, 3]) {
      const [x, dy] = [matrix(m, dIn), matrix(m, dOut)]
      // The order of each sum is the same.
      expectSameBits('y', linearForward({ x, weight: packed, bias }).y.data, linearForward({ x, weight, bias }).y.data)
      expectSameBits('dx', linearBackward({ dy, weight: packed }).dx.data, linearBackward({ dy, weight }).dx.data)
      const rest = { a: matrix(4, dIn), b: matrix(dOut, 4), bias }
      const [actual, expected] = [packed, weight].map((weight) => {
        const { y, saved } = loraForward({ x, weight, ...rest })
        return [y.data, loraBackward({ dy }, saved).dx.data]
      })
      expectSameBits('y of LoRA', actual[0], expected[0])
      expectSameBits('dx of LoRA', actual[1], expected[1])
      const { y } = await linearForwardAsync({ x, weight: packed, bias })
      expectSameBits('y of Async', y.data, linearForward({ x, weight, bias }).y.data)
    }
    await expectRefused('ERR_LILY_SHAPE', `weight: expected [d_out, 7] (x has d_in 7), got [${dOut}, ${dIn}]`, () =>
      linearForward({ x: matrix(2, 7), weight: packed }),
    )
    await expectRefused('ERR_LILY_SHAPE', 'weight: expected [d_in, d_out]', () =>
      packLinear(tensor(new Float32Array(3), [3]), { transposed: true }),
    )
    await expectRefused('ERR_LILY_SHAPE', `bias: expected [${dOut}]`, () =>
      linearForward({ x: matrix(2, dIn), weight: packed, bias: { data: new Float32Array(dIn), shape: [dIn] } }),
    )
  })

  it('has no form of a weight of 16 bits under float32, which would have twice its size', () => {
    const weight = cast(matrix(dOut, dIn), 'bfloat16')
    const packed = packLinear(weight)
    linearForward({ x: matrix(70, dIn), weight: packed })
    linearBackward({ dy: matrix(70, dOut), weight: packed })
    expect([packed.dtype, packed.byteLength]).toEqual(['bfloat16', 0])
  })

  it('a bias may be float32 beside a weight of 16 bits', () => {
    const bias = { data: gaussian(random, dOut), shape: [dOut] }
    for (const m of [3, 33]) {
      const [x, weight] = [cast(matrix(m, dIn), 'bfloat16'), cast(matrix(dOut, dIn), 'bfloat16')]
      const { y } = linearForward({ x, weight, bias })
      const wide = linearForward({ x: cast(x, 'float32'), weight: cast(weight, 'float32'), bias })
      // y is rounded to bfloat16.
      expect(relativeError(cast(y, 'float32').data as Float32Array, wide.y.data as Float32Array)).toBeLessThan(2 ** -8)
    }
  })

  it('is refused once it is disposed of, and leaves the weight alone', async () => {
    const weight = tensor(gaussian(random, dIn * dOut), [dOut, dIn])
    const packed = packLinear(weight)
    const x = matrix(tokens, dIn)
    const { y } = linearForward({ x, weight: packed })
    packed.dispose()
    packed.dispose()
    expect(packed.isDisposed).toBe(true)
    await expectRefused('ERR_LILY_DISPOSED', 'weight', () => linearForward({ x, weight: packed }))
    await expectRefused('ERR_LILY_DISPOSED', 'packed weight', () => packed.byteLength)
    expectSameBits('y', linearForward({ x, weight }).y.data, y.data)
  })
})
