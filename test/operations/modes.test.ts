/**
 * The routings in every data type: required and rejected operands, groups, contents of saved.
 *
 * @project cpu amx wasm unshared webgpu cuda @asan
 */
import { describe, expect, it } from 'vitest'
import type { Exact, LilyForwardOperands, LilyForwardOptions, Tensor } from '../../lib/index.js'
import { foldB, isWebGpu, lilyBackward, lilyForward, loraBackward, loraForward } from '../support/backend.js'
import { expectSameBits } from '../support/compare.js'
import { roundoff, TYPES, type Types } from '../support/dtypes.js'
import { expectRefused } from '../refusals/refused.js'
import { everyNth } from '../support/runs.js'
import { filled, numbers, sizes, smallLoraB, typed, typedOperands, type TypedTensor } from '../support/small.js'

const { tokens, dIn, dOut, rank, experts } = sizes
const offsets = [0, 2, 2, 6]
const mask = [1, 0, 1, 1, 1, 1]

interface Mode {
  routing: NonNullable<LilyForwardOptions['routing']>
  /** Options that the routing requires, besides the router. */
  options: Omit<LilyForwardOptions, 'save'>
  router: boolean
  mask: boolean
  sequenceOffsets: boolean
  probabilities: boolean
  /** Shape of saved.weights. */
  weights?: number[]
}

const modes: Mode[] = [
  {
    routing: 'batch',
    options: {},
    router: true,
    mask: true,
    sequenceOffsets: false,
    probabilities: true,
    weights: [1, experts],
  },
  {
    routing: 'sequence',
    options: { sequenceOffsets: offsets },
    router: true,
    mask: true,
    sequenceOffsets: true,
    probabilities: true,
    weights: [3, experts],
  },
  { routing: 'token', options: {}, router: true, mask: false, sequenceOffsets: false, probabilities: true },
  {
    routing: 'uniform',
    options: {},
    router: false,
    mask: false,
    sequenceOffsets: false,
    probabilities: false,
    weights: [1, experts],
  },
  {
    routing: 'fixed',
    options: { weights: [0.25, 0.75] },
    router: false,
    mask: false,
    sequenceOffsets: true,
    probabilities: false,
    weights: [1, experts],
  },
]

/** The combinations of data types; precision 'high' and types of given gradients do not matter here. */
const combinations = Object.entries(TYPES).filter(([, { precision, gradients }]) => precision !== 'high' && !gradients)

for (const [name, types] of everyNth(isWebGpu ? 2 : 1, combinations))
  describe(name, () => {
    modesIn(types)
  })

function modesIn(types: Types): void {
  const smallOperands = () => typedOperands(types)
  const { activations, parameters = activations, precision } = types
  /** lilyForward in this combination. */
  const forward = <O extends Exact<O, LilyForwardOptions> = object>(operands: LilyForwardOperands, options?: O) =>
    lilyForward<O>(operands, { precision, ...options } as unknown as O)
  /** Outputs to accumulate into: of the type of the activations and of that of the parameters. */
  const rows = (value: number, ...shape: number[]) => typed(filled(value, ...shape), activations)
  const gradient = (value: number, ...shape: number[]) => typed(filled(value, ...shape), parameters)

  function operandsOf(mode: Mode) {
    const { x, a, router, b } = smallOperands()
    return mode.router ? { x, a, b, router } : { x, a, b }
  }

  for (const mode of modes) {
    const { routing } = mode
    const options = { routing, ...mode.options }
    const operands = operandsOf(mode)
    const { router } = smallOperands()

    describe(routing, () => {
      it(mode.router ? 'requires a router' : 'rejects a router', async () => {
        const { x, a, b } = operands
        const opposite = mode.router ? { x, a, b } : { x, a, b, router }
        await expectRefused('ERR_LILY_ARGUMENT', 'router', () => forward(opposite, options))
        expect((await forward(operands, options)).y.shape).toEqual([tokens, dOut])
      })

      it(mode.mask ? 'accepts a mask' : 'rejects a mask', async () => {
        const masked = () => forward(operands, { ...options, mask })
        if (mode.mask)
          expect(Array.from((await masked()).y.data)).not.toEqual(Array.from((await forward(operands, options)).y.data))
        else await expectRefused('ERR_LILY_ARGUMENT', 'mask', masked)
      })

      if (!mode.sequenceOffsets) {
        it('rejects sequenceOffsets', async () => {
          const call = () => forward(operands, { ...options, sequenceOffsets: offsets })
          await expectRefused('ERR_LILY_ARGUMENT', 'sequenceOffsets', call)
        })
      }

      if (routing !== 'fixed') {
        it('rejects weights', async () => {
          await expectRefused('ERR_LILY_ARGUMENT', 'weights', () => forward(operands, { ...options, weights: [1, 0] }))
        })
      }

      it('saves the tensors in the table', async () => {
        const { saved } = await forward(operands, options)
        expect(saved.hidden.shape).toEqual([tokens, rank])
        const { dtype } = (await forward(operands, { ...options, precision: 'high' })).saved.hidden
        expect([saved.hidden.dtype, dtype]).toEqual([
          activations ?? 'float32',
          parameters === 'float32' ? 'float32' : (activations ?? 'float32'),
        ])
        expect(saved.weights?.dtype ?? saved.probabilities?.dtype).toBe('float32')
        expect(saved.probabilities?.shape).toEqual(mode.probabilities ? [tokens, experts] : undefined)
        expect(saved.weights?.shape).toEqual(mode.weights)
      })

      it('saves nothing with inference, and returns the same y', async () => {
        const { y, saved } = await forward(operands, { ...options, save: false })
        expect(saved).toBeUndefined()
        expectSameBits('y', y.data, (await forward(operands, options)).y.data)
      })

      it(`has gradients of x, a and b${mode.router ? ' and of the router' : ' but of no router'}`, async () => {
        const { saved } = await forward(operands, options)
        const { dy } = smallOperands()
        const gradients = await lilyBackward({ dy }, saved)
        const names = ['dx', 'da', 'db', ...(mode.router ? ['dRouter'] : [])]
        expect(computed(gradients)).toEqual(names.sort())
        expect(gradients.dx.shape).toEqual([tokens, dIn])
        expect(gradients.da.shape).toEqual([rank, dIn])
        expect(gradients.db.shape).toEqual([experts, rank, dOut])
        if (mode.router) expect(gradients.dRouter?.shape).toEqual([experts, rank])
        else {
          const dRouter = gradient(0, experts, rank)
          await expectRefused('ERR_LILY_ARGUMENT', 'dRouter', () => lilyBackward({ dy, dRouter }, saved))
        }
      })

      it('supports pooled logits if it pools', async () => {
        const logits = async () => (await forward(operands, { ...options, pool: 'logits' })).saved
        if (!mode.mask) {
          await expectRefused('ERR_LILY_ARGUMENT', 'pool', logits)
        } else {
          expect((await logits()).probabilities).toBeUndefined()
          expect((await logits()).weights?.shape).toEqual(mode.weights)
        }
      })
    })
  }

  describe('groups', () => {
    const { x, a, b, router, dy } = smallOperands()
    const cube = { ...x, shape: [3, 2, dIn] }

    it('sequence: the rows of a 3-D x', async () => {
      const rows = await forward({ x: cube, a, router, b }, { routing: 'sequence' })
      const same = await forward({ x, a, router, b }, { routing: 'sequence', sequenceOffsets: [0, 2, 4, 6] })
      expect(rows.saved.weights?.shape).toEqual([3, experts])
      expectSameBits('y', rows.y.data, same.y.data)
      expectSameBits(
        'dx',
        (await lilyBackward({ dy }, rows.saved)).dx.data,
        (await lilyBackward({ dy }, same.saved)).dx.data,
      )
    })

    it('sequence: offsets take precedence over the rows of a 3-D x', async () => {
      const { saved } = await forward({ x: cube, a, router, b }, { routing: 'sequence', sequenceOffsets: [0, 6] })
      expect(saved.weights?.shape).toEqual([1, experts])
    })

    it('sequence: rejects x without offsets unless it is 3-D', async () => {
      await expectRefused('ERR_LILY_ARGUMENT', 'sequenceOffsets', () =>
        forward({ x, a, router, b }, { routing: 'sequence' }),
      )
      const deep = { ...x, shape: [3, 2, 1, dIn] }
      const call = () => forward({ x: deep, a, router, b }, { routing: 'sequence' })
      await expectRefused('ERR_LILY_ARGUMENT', 'sequenceOffsets', call)
    })

    it('sequence: no sequences and no tokens', async () => {
      const none = rows(0, 0, 2, dIn)
      for (const pool of ['probabilities', 'logits'] as const) {
        const { y, saved } = await forward({ x: none, a, router, b }, { routing: 'sequence', pool })
        expect(y.shape).toEqual([0, 2, dOut])
        expect(saved.weights?.shape).toEqual([0, experts])
        const noGradient = rows(0, 0, 2, dOut)
        for (const deferB of [false, true]) {
          const {
            dx,
            da,
            dRouter,
            db = await foldB(saved),
          } = await lilyBackward({ dy: noGradient }, saved, { deferB, retain: true })
          expect(dx.shape).toEqual([0, 2, dIn])
          for (const gradient of [da, dRouter, db]) expect(numbers(gradient).every((value) => value === 0)).toBe(true)
        }
      }
    })

    const weights = { data: Float32Array.of(1, 0, 0.5, 0.5, 0, 1), shape: [3, experts] }

    it('fixed: [E] is one group', async () => {
      const { saved } = await forward({ x: cube, a, b }, { routing: 'fixed', weights: [0.25, 0.75] })
      expect(saved.weights?.shape).toEqual([1, experts])
      expect(Array.from(numbers(saved.weights))).toEqual([0.25, 0.75])
    })

    it('fixed: [G, E] by offsets or by the rows of a 3-D x', async () => {
      const rows = await forward({ x: cube, a, b }, { routing: 'fixed', weights })
      const same = await forward({ x, a, b }, { routing: 'fixed', weights, sequenceOffsets: [0, 2, 4, 6] })
      expect(Array.from(numbers(rows.saved.weights))).toEqual(Array.from(weights.data))
      expectSameBits('y', rows.y.data, same.y.data)
    })

    it('fixed: [1, E] is one group, of any x', async () => {
      const row = { data: Float32Array.of(0.25, 0.75), shape: [1, experts] }
      const same = (await forward({ x, a, b }, { routing: 'fixed', weights: [0.25, 0.75] })).y
      for (const given of [x, cube]) {
        const { y, saved } = await forward({ x: given, a, b }, { routing: 'fixed', weights: row })
        expect(saved.weights?.shape).toEqual([1, experts])
        expectSameBits('y', y.data, same.data)
      }
    })

    it('fixed: the weights give E of a b [E*r, d_out]', async () => {
      const flat = { ...b, shape: [experts * rank, dOut] }
      const { y } = await forward({ x: cube, a, b: flat }, { routing: 'fixed', weights })
      expectSameBits('y', y.data, (await forward({ x: cube, a, b }, { routing: 'fixed', weights })).y.data)
    })

    it('fixed: rejects [E] with offsets, and [G, E] without groups or with another number of groups', async () => {
      const one = () => forward({ x, a, b }, { routing: 'fixed', weights: [1, 0], sequenceOffsets: [0, 2, 6] })
      await expectRefused('ERR_LILY_ARGUMENT', 'sequenceOffsets: weights [E]', one)
      const call = () => forward({ x, a, b }, { routing: 'fixed', weights })
      await expectRefused('ERR_LILY_ARGUMENT', 'sequenceOffsets', call)
      const other = () => forward({ x, a, b }, { routing: 'fixed', weights, sequenceOffsets: [0, 3, 6] })
      await expectRefused('ERR_LILY_SHAPE', 'weights', other)
    })
  })

  describe('outputs', async () => {
    const { dy, ...operands } = smallOperands()
    const fresh = await forward(operands)
    const gradients = await lilyBackward({ dy }, fresh.saved, { retain: true })

    it('given outputs are accumulated in place', async () => {
      const y = rows(1, tokens, dOut)
      expectSum(y, (await forward({ ...operands, y })).y, fresh.y)
      const given = { dx: rows(1, tokens, dIn), da: gradient(1, rank, dIn), dRouter: gradient(1, experts, rank) }
      const db = gradient(1, experts * rank, dOut)
      const added = await lilyBackward({ dy, ...given, db }, fresh.saved, { retain: true })
      expect(added.db.shape).toEqual(db.shape)
      for (const name of ['dx', 'da', 'dRouter', 'db'] as const) {
        expectSum({ ...given, db }[name], added[name], gradients[name])
      }
    })

    it('accumulate: false overwrites outputs, including NaN', async () => {
      const y = rows(NaN, tokens, dOut)
      await forward({ ...operands, y }, { accumulate: false })
      expectSameBits('y', y.data, fresh.y.data)
      const given = { dx: rows(NaN, tokens, dIn), da: gradient(NaN, rank, dIn), dRouter: gradient(NaN, experts, rank) }
      const db = gradient(NaN, experts, rank, dOut)
      await lilyBackward({ dy, ...given, db }, fresh.saved, { accumulate: false, retain: true })
      for (const name of ['dx', 'da', 'dRouter', 'db'] as const) {
        expectSameBits(name, { ...given, db }[name].data, gradients[name].data)
      }
    })

    it('needs: omits gradients that are not needed, and does not change the others', async () => {
      const names = ['dx', 'da', 'dRouter', 'db'] as const
      for (let chosen = 0; chosen < 16; chosen++) {
        const needs = Object.fromEntries(names.map((name, i) => [name, (chosen >> i) % 2 === 1]))
        const some: Partial<Record<(typeof names)[number], Tensor>> = await lilyBackward({ dy }, fresh.saved, {
          needs,
          retain: true,
        })
        expect(computed(some)).toEqual(names.filter((name) => needs[name]).sort())
        for (const name of names) {
          const value = some[name]
          if (value) expectSameBits(name, value.data, gradients[name].data)
        }
      }
    })

    it('deferB defers db to foldB, which sums it over layers', async () => {
      const run = async (scaling: number) => (await forward(operands, { scaling })).saved
      const layers = [await run(1), await run(2)]
      const db = await Promise.all(
        layers.map(async (saved) => numbers((await lilyBackward({ dy }, saved, { retain: true })).db)),
      )
      for (const saved of layers) expect((await lilyBackward({ dy }, saved, { deferB: true })).db).toBeUndefined()
      const folded = await foldB(layers)
      expect(folded.shape).toEqual([experts, rank, dOut])
      numbers(folded).forEach((value, i) => {
        expectNear(value, db[0][i] + db[1][i])
      })
    })

    it('deferB stores a sum for each group, or for each expert if there are more groups', async () => {
      for (const sequenceOffsets of [
        [0, 2, tokens],
        [0, 2, 3, tokens],
      ]) {
        const { saved } = await forward(operands, { routing: 'sequence', sequenceOffsets })
        const db = numbers((await lilyBackward({ dy }, saved, { retain: true })).db).slice()
        await lilyBackward({ dy }, saved, { deferB: true })
        numbers(await foldB(saved)).forEach((value, i) => {
          expectNear(value, db[i])
        })
      }
    })

    it('a saved call that ran backward twice is folded twice', async () => {
      const { saved } = await forward(operands)
      for (let i = 0; i < 2; i++) await lilyBackward({ dy }, saved, { deferB: true, retain: true })
      numbers(await foldB(saved)).forEach((value, i) => {
        expectNear(value, 2 * numbers(gradients.db)[i])
      })
    })

    it('foldB accepts one saved call, and memory to accumulate into or to overwrite', async () => {
      for (const accumulate of [undefined, true, false]) {
        const { saved } = await forward(operands)
        await lilyBackward({ dy }, saved, { deferB: true })
        const db = gradient(accumulate === false ? NaN : 1, experts, rank, dOut)
        await foldB(saved, db, { accumulate })
        numbers(db).forEach((value, i) => {
          expectNear(value, numbers(gradients.db)[i] + (accumulate === false ? 0 : 1))
        })
      }
    })
  })

  describe('lora', () => {
    const { x, a, dy, router } = smallOperands()
    const b = typed(smallLoraB(), parameters)

    it('has hidden and the gradients of x, a and b', async () => {
      const { y, saved } = await loraForward({ x, a, b }, { precision })
      expect(y.shape).toEqual([tokens, dOut])
      expect(saved.hidden.shape).toEqual([tokens, rank])
      const gradients = await loraBackward({ dy }, saved)
      expect(computed(gradients)).toEqual(['da', 'db', 'dx'])
      expect(gradients.db.shape).toEqual([dOut, rank])
    })

    it('has no router and no routing', async () => {
      await expectRefused('ERR_LILY_ARGUMENT', 'router', () => loraForward({ x, a, b, router } as never))
      await expectRefused('ERR_LILY_ARGUMENT', 'routing', () => loraForward({ x, a, b }, { routing: 'batch' } as never))
    })
  })

  /** Tolerance of two roundings of the type of the result; the numbers here are small. */
  function expectNear(actual: number, expected: number): void {
    const close = activations === undefined ? 5e-6 : 4 * roundoff(activations) * (1 + Math.abs(expected))
    expect(Math.abs(actual - expected)).toBeLessThan(close)
  }

  /** Checks that added = 1 + value, in `memory`. */
  function expectSum(memory: TypedTensor, added: Tensor, value: Tensor): void {
    expect(added.data.buffer).toBe(memory.data.buffer)
    numbers(value).forEach((number, i) => {
      expectNear(numbers(added)[i], 1 + number)
    })
  }
}

it('backward reads the x that is given again', async () => {
  const { x, a, router, b, dy } = typedOperands({})
  const { saved } = await lilyForward({ x, a, router, b })
  const before = await lilyBackward({ dy }, saved, { retain: true })
  // Only da = dh^T x depends on x, so other numbers show which x was read. Doubling is exact.
  const doubled = { ...x, data: x.data.map((value) => 2 * value) }
  const after = await lilyBackward({ dy, x: doubled }, saved)
  expect(numbers(after.da)).toEqual(numbers(before.da).map((value) => 2 * value))
  for (const name of ['dx', 'dRouter', 'db'] as const) expectSameBits(name, after[name].data, before[name].data)
})

describe('a second backward with one saved', () => {
  const { dy, ...operands } = typedOperands({})
  const backwardOf = {
    lily: async () => {
      const { saved } = await lilyForward(operands)
      return (given: object, options?: { retain: boolean }) => lilyBackward({ dy, ...given }, saved, options)
    },
    lora: async () => {
      const { saved } = await loraForward({ x: operands.x, a: operands.a, b: smallLoraB() })
      return (given: object, options?: { retain: boolean }) => loraBackward({ dy, ...given }, saved, options)
    },
  }

  it.each(['lily', 'lora'] as const)(
    'is refused and writes nothing, unless the first one retains it: %s',
    async (of) => {
      const backward = await backwardOf[of]()
      // What a check refuses does not use it up.
      await expectRefused('ERR_LILY_SHAPE', 'dy', () => backward({ dy: filled(1, tokens, dOut + 1) }))
      const first = await backward({}, { retain: true })
      const second = await backward({}, { retain: false })
      for (const name of ['dx', 'da', 'db'] as const) expectSameBits(name, second[name].data, first[name].data)
      const dx = filled(3, tokens, dIn)
      for (const retain of [false, true]) {
        const message =
          'saved: expected one that no backward has used, got one that has; run forward again, or pass retain'
        await expectRefused('ERR_LILY_ARGUMENT', message, () => backward({ dx }, { retain }))
      }
      expect(new Set(dx.data)).toEqual(new Set([3]))
    },
  )
})

/** The names of the returned gradients. */
function computed(gradients: object): string[] {
  return Object.entries(gradients)
    .filter(([, value]) => value !== undefined)
    .map(([name]) => name)
    .sort()
}
