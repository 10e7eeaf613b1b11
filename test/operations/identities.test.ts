/**
 * Identities between the results of any problem, independent of the reference. See docs/math.md, Identities.
 *
 * @project cpu amx wasm webgpu cuda @long
 */
import { describe, expect, test } from 'vitest'
import { backend, isEmulated, isModelled, isSanitized, isSlow, isWebGpu, lilyForward } from '../support/backend.js'
import { type Case, makeCase, type Spec } from '../support/cases.js'
import { expectSameBits, relativeError } from '../support/compare.js'
import { FLOAT32, roundoff, TYPES, type Types } from '../support/dtypes.js'
import { run, type Values, wantedGradients } from '../support/run.js'
import { everyNth, isLong } from '../support/runs.js'
import { typed } from '../support/small.js'

const sizes = { tokens: 75, dIn: 96, dOut: 113, rank: 16, experts: 4, scaling: 1.5 }
const lengths = [33, 0, 1, 41]
const specs: Record<string, Spec> = {
  batch: { ...sizes, routing: 'batch', seed: 1 },
  'batch, masked': { ...sizes, routing: 'batch', masked: 0.3, seed: 2 },
  'batch, logits': { ...sizes, routing: 'batch', pool: 'logits', sharpness: 0.1, seed: 3 },
  'batch, relu': { ...sizes, routing: 'batch', activation: 'relu', seed: 4 },
  sequence: { ...sizes, routing: 'sequence', lengths, masked: 0.3, seed: 5 },
  'sequence, logits': { ...sizes, routing: 'sequence', pool: 'logits', sharpness: 0.1, lengths, seed: 6 },
  token: { ...sizes, routing: 'token', seed: 7 },
  uniform: { ...sizes, routing: 'uniform', seed: 8 },
  fixed: { ...sizes, routing: 'fixed', lengths, seed: 9 },
  lora: { ...sizes, routing: 'lora', experts: 1, seed: 10 },
}
const types = Object.entries(TYPES)
const [float32, ...others] = types
// Every mode in float32 and in one of the other types by turns; on the model of AMX, whose set is another only in those, in
// one of them; on the emulator every second mode in one of both. On WebGPU, where compiling takes long, every second mode in
// float32. A long run has all.
const modes = everyNth(isWebGpu || isEmulated ? 2 : 1, Object.entries(specs)).flatMap(([mode, spec], i) => {
  const other = others[i % others.length]
  const ofTurn = isWebGpu ? [float32] : isModelled ? [other] : everyNth(isEmulated ? 2 : 1, [float32, other], i)
  const some = isLong ? types : ofTurn
  return some.map(([types, of]): [string, Spec] => [`${mode}, ${types}`, { ...spec, ...of }])
})

/**
 * A few times the rounding of float32, for sums of these sizes; for 16-bit types, and for terms of bfloat16, a single
 * rounding dominates.
 */
const closeTo = ({ activations = 'float32', precision }: Types) => {
  if (activations !== 'float32') return roundoff(activations)
  return isModelled && precision === 'tf32' ? roundoff('terms') : 2e-6
}

function valueOf(values: Values, name: keyof Values): Float32Array {
  const value = values[name]
  if (value === undefined) throw new Error(`no ${name}`)
  return value
}

function expectSame(actual: Values, expected: Values, names: (keyof Values)[], close: number): void {
  for (const name of names)
    expect(relativeError(valueOf(actual, name), valueOf(expected, name)), name).toBeLessThanOrEqual(close)
}

/** <u, v>, and the sum of the terms' magnitudes. */
function inner(u: ArrayLike<number>, v: ArrayLike<number>): { sum: number; size: number } {
  const terms = Array.from(u, (value, i) => value * v[i])
  return { sum: terms.reduce((s, t) => s + t, 0), size: terms.reduce((s, t) => s + Math.abs(t), 0) }
}

const results = new Map<Spec, Values>()

/** The results of one of the `modes`, which two of the identities below are about. */
async function resultsOf(spec: Spec): Promise<Values> {
  const values = results.get(spec) ?? (await run(makeCase(spec))).values
  results.set(spec, values)
  return values
}

const isZero = (values: Float32Array) => values.every((value) => value === 0)

// y is homogeneous of degree one in b, so <b, db> = <y, dy>: sum_e w_ge dw_ge = sum_t <h_t, q_t>, summed over groups.
// x and a occur only as x a^T. h = relu(x a^T) is homogeneous in both, and so are the logits h R^T in h and R.
describe('homogeneity', () => {
  test.each(modes)('%s', async (_, spec) => {
    const close = closeTo(spec)
    const c = makeCase(spec)
    const values = await resultsOf(spec)
    const y = inner(valueOf(values, 'y'), c.dy)
    const b = inner(c.b, valueOf(values, 'db'))
    const x = inner(c.x, valueOf(values, 'dx'))
    const a = inner(c.a, valueOf(values, 'da'))
    const router = c.router ? inner(c.router, valueOf(values, 'dRouter')) : { sum: 0, size: 0 }
    expect(Math.abs(b.sum - y.sum), '<b, db> = <y, dy>').toBeLessThan(close * (b.size + y.size))
    expect(Math.abs(a.sum - x.sum), '<a, da> = <x, dx>').toBeLessThan(close * (a.size + x.size))
    const sum = y.sum + router.sum
    expect(Math.abs(x.sum - sum), '<x, dx> = <y, dy> + <router, dRouter>').toBeLessThan(
      close * (x.size + y.size + router.size),
    )
  })
})

// Adding a constant to all logits does not change their softmax, so the gradients of the logits add up to zero.
describe('the gradients of the router add up to zero over the experts', () => {
  test.each(modes.filter(([, { routing }]) => ['batch', 'sequence', 'token'].includes(routing)))(
    '%s',
    async (_, spec) => {
      const close = closeTo(spec)
      const dRouter = valueOf(await resultsOf(spec), 'dRouter')
      for (let i = 0; i < spec.rank; i++) {
        const column = dRouter.filter((_, at) => at % spec.rank === i)
        const { sum, size } = inner(column, new Float32Array(spec.experts).fill(1))
        expect(size).toBeGreaterThan(0)
        expect(Math.abs(sum)).toBeLessThan(close * size)
      }
    },
  )
})

/** Whose softmax it is: that of a group or of a token. */
const softmaxes = [
  ['batch', 'probabilities'],
  ['batch', 'logits'],
  ['sequence', 'probabilities'],
  ['sequence', 'logits'],
  ['token', undefined],
] as const

// If the weight of one expert is close to 1, w - <w, dw> of that expert must not consist of the rounding errors of <w, dw>.
describe('also for a router that is almost sure of one expert', () => {
  test.each(softmaxes)('%s, %s', async (routing, pool) => {
    const [tokens, rank, dIn] = [6, 4, 8]
    const lengths = routing === 'sequence' ? [3, 3] : undefined
    const c = makeCase({ tokens, dIn, dOut: 12, rank, experts: 3, routing, pool, lengths, seed: 30 })
    // h is 1 everywhere. The softmax sees 0, 18 and -1, so that the weights of two experts are about 1e-8.
    c.x.fill(1)
    c.a.fill(1 / dIn)
    const pooled = pool !== 'logits' ? 1 : (lengths?.[0] ?? tokens)
    c.router = Float32Array.from({ length: 3 * rank }, (_, i) => [0, 18, -1][Math.floor(i / rank)] / (rank * pooled))
    const dRouter = valueOf((await run(c)).values, 'dRouter')
    const { sum, size } = inner(dRouter, new Float32Array(dRouter.length).fill(1))
    expect(size).toBeGreaterThan(0)
    expect(Math.abs(sum)).toBeLessThan(1e-5 * size)
  })
})

// A number that is added to all logits of a token changes no softmax, although e to its power may be infinite or zero.
describe('logits may be far from zero', () => {
  test.each(softmaxes)('%s, %s', async (routing, pool) => {
    const lengths = routing === 'sequence' ? [3, 3] : undefined
    const c = makeCase({ tokens: 6, dIn: 8, dOut: 12, rank: 4, experts: 3, routing, pool, lengths, seed: 31 })
    // h is 1 everywhere, so the logits are four times the numbers of a row of the router. All of them are exact.
    c.x.fill(1)
    c.a.fill(1 / c.dIn)
    const router = [0, 0.25, -0.25].flatMap((logit) => new Array<number>(c.rank).fill(logit))
    const at = async (distance: number) =>
      (await run({ ...c, router: Float32Array.from(router, (logit) => logit + distance) })).values
    const near = await at(0)
    const names = ['y', 'db', routing === 'token' ? 'probabilities' : 'weights'] as const
    for (const distance of [256, -256]) expectSame(await at(distance), near, [...names], closeTo({}))
  })
})

describe('the initial state, b = 0', () => {
  test.each(modes)('%s', async (_, spec) => {
    const c = makeCase(spec)
    c.b.fill(0)
    const { values } = await run(c)
    for (const name of ['y', ...wantedGradients(c)] as const)
      expect(isZero(valueOf(values, name)), `${name} is zero`).toBe(name !== 'db')

    const { values: added, old } = await run(c, { outputs: 'add' })
    for (const name of ['y', ...wantedGradients(c)] as const)
      if (name !== 'db') expectSameBits(name, valueOf(added, name), old[name] ?? new Float32Array())
  })
})

describe('no tokens', () => {
  test.each(modes)('%s', async (_, spec) => {
    const c = makeCase({ ...spec, tokens: 0, lengths: spec.lengths && [0, 0] })
    for (const outputs of ['new', 'overwrite'] as const) {
      const { values } = await run(c, { outputs })
      expect(valueOf(values, 'y').length).toBe(0)
      for (const name of wantedGradients(c)) expect(isZero(valueOf(values, name)), name).toBe(true)
    }
    const { values: added, old } = await run(c, { outputs: 'add' })
    for (const name of wantedGradients(c)) expectSameBits(name, valueOf(added, name), old[name] ?? new Float32Array())
  })
})

describe('a group with no kept token', () => {
  test.each(modes.filter(([, { routing }]) => routing === 'batch'))('%s', async (_, spec) => {
    const c = makeCase({ ...spec, masked: 1 })
    const { values } = await run(c)
    for (const name of ['weights', 'y', ...wantedGradients(c)] as const)
      expect(isZero(valueOf(values, name)), name).toBe(true)
  })

  test.each(modes.filter(([, { routing }]) => routing === 'sequence'))('%s', async (_, spec) => {
    const c = makeCase(spec)
    c.mask = new Uint8Array(sizes.tokens).fill(1).fill(0, 0, 33)
    const { values } = await run(c)
    const rows = (name: keyof Values, first: number, last: number) => {
      const cols = valueOf(values, name).length / (name === 'weights' ? lengths.length : sizes.tokens)
      return valueOf(values, name).subarray(first * cols, last * cols)
    }
    for (const name of ['y', 'dx'] as const) {
      expect(isZero(rows(name, 0, 33)), name).toBe(true)
      expect(rows(name, 33, 75).every(Number.isFinite), name).toBe(true)
      expect(isZero(rows(name, 33, 75)), name).toBe(false)
    }
    // The second sequence is empty, the first has no kept token.
    expect(isZero(rows('weights', 0, 2))).toBe(true)
    for (const group of [2, 3]) {
      const sum = rows('weights', group, group + 1).reduce((total, w) => total + w, 0)
      expect(Math.abs(sum - 1)).toBeLessThan(2e-6)
    }
  })
})

// Memory is used again: the results of a call do not depend on the numbers that the calls before it left there.
describe.each([
  [sizes.tokens, sizes.rank],
  // So few tokens that the CPU backend has passes of their own for them, and a rank at which AMX reads dy twice.
  ...(backend === 'cpu'
    ? [
        [2, 16],
        [33, 264],
      ]
    : []),
])('after a call on NaN, %d tokens, rank %d', (tokens, rank) => {
  test.for(modes)('%s', async ([, spec], { skip }) => {
    if (isWebGpu) skip('WGSL lets an implementation assume that there is no NaN')
    const isLora = spec.routing === 'lora'
    const lengths = spec.lengths && (tokens === sizes.tokens ? spec.lengths : [tokens - 1, 0, 1])
    const canMask = spec.routing === 'batch' || spec.routing === 'sequence'
    for (const masked of canMask ? [spec.masked, 1] : [spec.masked]) {
      const c = makeCase({ ...spec, tokens, rank, lengths, masked })
      const spoiled = { ...c, x: c.x.map(() => NaN), dy: c.dy.map(() => NaN), mask: undefined }
      for (const deferB of isLora ? [false] : [false, true]) {
        const expected = (await run(c, { deferB })).values
        await run(spoiled, { deferB })
        const { values } = await run(c, { deferB })
        for (const name of Object.keys(expected) as (keyof Values)[]) {
          expect(valueOf(expected, name).every(Number.isFinite), `${name} is finite`).toBe(true)
          expectSameBits(name, valueOf(values, name), valueOf(expected, name))
        }
      }
    }
  })
})

// As in PyTorch. A gradient of 0 would hide that y of the token is NaN.
describe('relu passes the gradient of a NaN', () => {
  const token = 3
  test.for(types)('%s', async ([, of], { skip }) => {
    if (isWebGpu) skip('WGSL lets an implementation assume that there is no NaN')
    const c = makeCase({ ...sizes, ...of, tokens: 7, routing: 'token', activation: 'relu', seed: 12 })
    c.x.fill(NaN, token * c.dIn, (token + 1) * c.dIn)
    const { values } = await run(c)
    for (let t = 0; t < c.tokens; t++) {
      const dx = valueOf(values, 'dx').subarray(t * c.dIn, (t + 1) * c.dIn)
      expect(dx.every(t === token ? Number.isNaN : Number.isFinite), `dx of token ${t}`).toBe(true)
    }
    expect(valueOf(values, 'da').every(Number.isNaN), 'da').toBe(true)
  })
})

// precision 'tf32' permits to round both operands of every product: on CUDA to TF32, which has 11 bits; on AMX to two terms
// of bfloat16. A backend without either computes in full precision. A result is a product of three factors at most.
describe('errors of tf32 are within its roundings', () => {
  test.each(Object.entries(specs))('%s', async (_, spec) => {
    const full = (await run(makeCase(spec))).values
    const rounded = (await run(makeCase({ ...spec, precision: 'tf32' }))).values
    const names = Object.keys(full) as (keyof Values)[]
    expectSame(rounded, full, names, 6 * (isModelled ? roundoff('terms') : 2 ** -11))
    const differs = names.some((name) => relativeError(valueOf(rounded, name), valueOf(full, name)) > 0)
    if (backend === 'cpu' || isEmulated) expect(differs).toBe(backend === 'cuda' || isModelled)
  })
})

// Modes may use different formulations, which round operands and results differently.
describe.each(isWebGpu ? everyNth(types.length, types) : everyNth(2, types))('modes that coincide, %s', (_, types) => {
  const close = 2 * closeTo(types)
  const base = { ...sizes, ...types }
  const all: (keyof Values)[] = ['y', 'hidden', 'dx', 'da', 'db']

  test.each(['probabilities', 'logits'] as const)('batch equals one sequence, pooled %s', async (pool) => {
    const spec = { ...base, pool, sharpness: 0.1, masked: 0.3, seed: 20 }
    const batch = (await run(makeCase({ ...spec, routing: 'batch' }))).values
    const sequence = (await run(makeCase({ ...spec, routing: 'sequence', lengths: [sizes.tokens] }))).values
    expectSame(sequence, batch, [...all, 'dRouter', 'weights'], close)
  })

  test.each(['batch', 'sequence'] as const)('fixed with the pooled weights equals %s', async (routing) => {
    const c = makeCase({ ...base, routing, lengths: routing === 'sequence' ? lengths : undefined, seed: 21 })
    const pooled = (await run(c)).values
    const fixed = (await run({ ...c, routing: 'fixed', router: undefined, weights: valueOf(pooled, 'weights') })).values
    expectSame(fixed, pooled, ['y', 'hidden', 'db'], close)
  })

  test('uniform equals fixed with 1 / E', async () => {
    const c = makeCase({ ...base, routing: 'uniform', seed: 22 })
    const weights = new Float32Array(sizes.experts).fill(1 / sizes.experts)
    expectSame(
      (await run({ ...c, routing: 'fixed', weights })).values,
      (await run(c)).values,
      [...all, 'weights'],
      close,
    )
  })

  test('token with one expert equals LoRA with b transposed', async () => {
    const c = makeCase({ ...base, routing: 'token', experts: 1, seed: 23 })
    const token = (await run(c)).values
    const lora = (await run({ ...c, routing: 'lora', router: undefined, b: transpose(c.b, sizes.rank) })).values
    expectSame({ ...lora, db: transpose(valueOf(lora, 'db'), sizes.dOut) }, token, all, close)
    expect(isZero(valueOf(token, 'dRouter'))).toBe(true)
  })
})

// Every gradient of this sum is a number of the type, but not every partial sum: rounded to it, 256 + 1 is 256, and in
// float16 2048 + 1 is 2048. On WebGPU compiling takes long.
if (!isWebGpu || isLong)
  describe('db adds up many sequences in float32', () => {
    const tokens = 65
    test.each([
      ['bfloat16', 256, 1],
      ['bfloat16', 256, 72],
      ['float16', 2048, 1],
    ] as const)('%s, first %d, rank %d', async (activations, first, rank) => {
      const ones = new Array<number>(tokens).fill(1)
      const c = makeCase({
        routing: 'fixed',
        tokens,
        dIn: 1,
        dOut: 9,
        rank,
        experts: 1,
        lengths: ones,
        activations,
        seed: 25,
      })
      for (const values of [c.x, c.a, c.dy, c.weights]) values?.fill(1)
      c.dy.fill(first, 0, c.dOut)
      const { db } = (await run(c)).values
      expect(new Set(db)).toEqual(new Set([first + tokens - 1]))
    })
  })

// Without a saved call the weights lie in memory of the call, behind the sums that they are made of.
test.each(['float32', 'bfloat16'] as const)('inference of many sequences has the same y, %s', async (dtype) => {
  const offsets = Int32Array.from({ length: 71 }, (_, g) => 2 * g)
  const { x, a, router, b } = makeCase({ ...sizes, routing: 'sequence', tokens: 140, activations: dtype, seed: 26 })
  const matrix = (data: Float32Array, ...shape: number[]) => typed({ data, shape }, dtype)
  const { dIn, dOut, rank, experts } = sizes
  const operands = {
    x: matrix(x, 140, dIn),
    a: matrix(a, rank, dIn),
    router: matrix(router ?? new Float32Array(), experts, rank),
    b: matrix(b, experts, rank, dOut),
  }
  const options = { routing: 'sequence', sequenceOffsets: offsets } as const
  const { y } = await lilyForward(operands, options)
  expectSameBits('y', (await lilyForward(operands, { ...options, save: false })).y.data, y.data)
})

// Large enough that the kernels split the batch differently from the sequence alone: into many splits of tokens, or one;
// and for few tokens, along the long dimension.
describe.each([
  [70, 16],
  // On WebGPU test/webgpu/kernels.test.ts has 19 tokens of all modes in float32, among more tokens.
  ...(isWebGpu && !isLong
    ? []
    : [
        [1, 16],
        [19, 16],
      ]),
  [3, 136],
  // A rank at which AMX reads dy twice, unless there may be several sequences.
  ...(backend === 'cpu' ? [[33, 264]] : []),
  // Activations of more than 8 MiB, which the register tile prefetches; panels of one to four vectors with AVX-512.
  ...(backend === 'cpu' && !isSlow && !isSanitized ? [8, 24, 40, 64].map((narrow) => [20, narrow, 4203]) : []),
])('a sequence of %d tokens does not depend on the rest of its batch, rank %d', (length, rank, many = 1203) => {
  const [before, after] = isSlow ? [139, 5] : [many, 5]
  const wide = {
    ...(isEmulated || isWebGpu
      ? { dIn: length < 70 && rank === 16 ? 520 : 140, dOut: 130 }
      : { dIn: isModelled ? 530 : 1100, dOut: isModelled ? 560 : 1030 }),
    rank,
    experts: 3,
  }
  const group = { first: before, last: before + length }
  const names = ['y', 'hidden', 'dx'] as const

  /** The rows of the sequence in a matrix with one row per token. */
  const part = (values: Values, name: keyof Values, tokens: number, first: number) => {
    const value = valueOf(values, name)
    const cols = value.length / tokens
    return value.slice(first * cols, (first + length) * cols)
  }

  /** The sequence alone. */
  const alone = (c: Case): Case => ({
    ...c,
    tokens: length,
    x: c.x.slice(group.first * c.dIn, group.last * c.dIn),
    dy: c.dy.slice(group.first * c.dOut, group.last * c.dOut),
    mask: c.mask?.slice(group.first, group.last),
    offsets: c.offsets && Int32Array.from([0, length]),
    weights: c.weights?.slice(c.experts, 2 * c.experts),
  })

  const invariant = [
    ['sequence', { routing: 'sequence' }],
    ['sequence, masked', { routing: 'sequence', masked: 0.3 }],
    ['sequence, logits', { routing: 'sequence', pool: 'logits', sharpness: 0.1 }],
    ['fixed', { routing: 'fixed' }],
    ['token', { routing: 'token' }],
    ['uniform', { routing: 'uniform' }],
    ['lora', { routing: 'lora', experts: 1 }],
  ] as const
  // With one length all of them, with the others one case of each, with float32 and bfloat16 by turns.
  const all = isLong || length === 70
  const each = [FLOAT32, 'bfloat16', ...(isLong ? ['mixed float16'] : [])]
    .filter((types) => types in TYPES)
    .flatMap((types, turn) =>
      invariant
        .filter(([name]) => all || !name.includes(','))
        .filter((_, i) => (all && !isWebGpu && !isEmulated) || isLong || i % 2 === turn)
        .filter(([name]) => many < 2000 || isLong || ['uniform', 'lora'].includes(name))
        // On the model two terms take three times as long as one.
        .filter(([name]) => !isModelled || types !== FLOAT32 || ['sequence', 'token', 'lora'].includes(name))
        .map(([name, mode]) => [`${name}, ${types}`, mode, TYPES[types]] as const),
    )

  test.each(each)('%s, bit for bit', async (_, mode, types) => {
    const grouped = mode.routing === 'sequence' || mode.routing === 'fixed'
    const tokens = before + length + after
    const spec = { ...wide, ...types, tokens, seed: 24, ...mode }
    const c = makeCase(grouped ? { ...spec, lengths: [before, length, after] } : spec)
    const expected = (await run(alone(c))).values
    // With one length: what distinguishes finite numbers from the NaN below does not depend on it.
    if (length === 70 || isLong) {
      const batch = (await run(c)).values
      for (const name of names) {
        expectSameBits(name, part(batch, name, tokens, before), part(expected, name, length, 0))
      }
    }
    // Nor does it depend on the numbers of other sequences, including NaN.
    for (const [values, cols] of [
      [c.x, c.dIn],
      [c.dy, c.dOut],
    ] as const) {
      values.fill(NaN, 0, group.first * cols).fill(NaN, group.last * cols)
    }
    const among = (await run(c)).values
    for (const name of names) {
      expectSameBits(name, part(among, name, tokens, before), part(expected, name, length, 0))
    }
  })
})

/** Transposes a matrix with this number of rows. */
function transpose(values: Float32Array, rows: number): Float32Array {
  const cols = values.length / rows
  return Float32Array.from({ length: values.length }, (_, i) => values[(i % rows) * cols + Math.floor(i / rows)])
}
