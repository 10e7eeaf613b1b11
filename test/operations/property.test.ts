/**
 * Random shapes, modes, data types, masks, sequences, layouts and ways to call, compared with the float64 reference; then
 * larger shapes that cross the block sizes of the kernels. support/runs.ts says how many problems run.
 *
 * @project cpu amx wasm webgpu cuda newer turing @asan
 */
import fc from 'fast-check'
import { describe, test } from 'vitest'
import type { Routing } from '../support/reference.js'
import { isEmulated, isSanitized, isSlow, isWebGpu } from '../support/backend.js'
import { makeCase, makeRowsCase, type RowsSpec, type Spec, splitTokens } from '../support/cases.js'
import { checkCase } from '../support/check.js'
import { checkRows } from '../support/check-rows.js'
import { FLOAT32, TYPES } from '../support/dtypes.js'
import type { HowRows } from '../support/rows.js'
import { GRADIENTS, type How } from '../support/run.js'
import { everyNth, isLong, problems } from '../support/runs.js'

const ROUTINGS = ['batch', 'sequence', 'token', 'uniform', 'fixed', 'learned', 'lora'] as const

const isPooled = (routing: Routing) => routing === 'batch' || routing === 'sequence'

/** A number from a range, often close to a vector width or a block size. */
const size = (min: number, max: number, ...often: number[]) =>
  fc.oneof(fc.integer({ min, max }), fc.constantFrom(...often))

const layout = fc.record({ gap: fc.constantFrom(0, 0, 1, 3, 16), margin: fc.constantFrom(0, 1, 5) })
const OPERANDS = ['x', 'a', 'router', 'b', 'dy', 'y', ...GRADIENTS] as const

const how = (routing: Routing): fc.Arbitrary<How> => {
  const gradients = GRADIENTS.filter((name) => {
    return name === 'dWeights' ? routing === 'fixed' : name !== 'dRouter' || routing !== 'lora'
  })
  return fc
    .record({
      layouts: fc.record(Object.fromEntries(OPERANDS.map((name) => [name, layout])) as Record<string, typeof layout>),
      outputs: fc.constantFrom('new', 'add', 'overwrite'),
      needs: fc.oneof(fc.constant({}), fc.record(Object.fromEntries(gradients.map((name) => [name, fc.boolean()])))),
      deferB: fc.boolean(),
    })
    .map(({ layouts, ...rest }) => ({ ...rest, layout: (name) => layouts[name] }))
}

/** Every second problem of sequence and fixed routing has a 3-D x of equal sequences; the others are ragged. */
const problem = (routing: Routing): fc.Arbitrary<{ spec: Spec; leading: number[] }> =>
  fc
    .record({
      routing: fc.constant(routing),
      tokens: size(0, 80, 0, 1, 7, 33, 64, 65),
      dIn: size(1, 140, 8, 15, 16, 17, 33, 96, 113, 136),
      dOut: size(1, 140, 8, 15, 16, 17, 33, 96, 113, 136),
      rank: size(1, 70, 4, 8, 16, 33),
      experts: routing === 'lora' ? fc.constant(1) : size(1, 8, 2, 4, 64),
      pool: isPooled(routing) ? fc.constantFrom('probabilities', 'logits') : fc.constant(undefined),
      activation: routing === 'lora' ? fc.constant(undefined) : fc.constantFrom('none', 'relu'),
      scaling: fc.constantFrom(1, 1, 0, -0.5, 8),
      masked: isPooled(routing) ? fc.constantFrom(0, 0, 0.3, 0.9, 1) : fc.constant(0),
      sharpness: fc.constantFrom(0.1, 1, 5),
      dropout: fc.constantFrom(undefined, undefined, 0.1, 0.5, 0.99),
      groups: fc.integer({ min: 0, max: 9 }),
      equal: fc.boolean(),
      seed: fc.integer(),
      types: fc.constantFrom(...Object.values(TYPES)),
    })
    .map(({ groups, equal, types, dropout: rate, ...sizes }) => {
      // At 0.99 dh is multiplied by 100, with which it may exceed float16.
      const dropout = rate === 0.99 && types.activations === 'float16' ? 0.5 : rate
      const spec = { ...sizes, ...types, dropout }
      if (routing !== 'sequence' && routing !== 'fixed') return { spec, leading: [] }
      if (!equal && groups > 0)
        return { spec: { ...spec, lengths: splitTokens(spec.tokens, groups, spec.seed) }, leading: [] }
      const length = groups > 0 ? Math.floor(spec.tokens / groups) : spec.tokens
      const lengths = new Array<number>(groups).fill(length)
      return { spec: { ...spec, tokens: groups * length, lengths }, leading: [groups, length] }
    })

/** One to five adapters, whose rows are tokens, sequences, or those of a 3-D x. */
const rowsProblem: fc.Arbitrary<{ spec: RowsSpec; how: HowRows }> = fc
  .record({
    routing: fc.constantFrom(...ROUTINGS),
    ranks: fc.array(size(1, 40, 4, 8, 16), { minLength: 1, maxLength: 5 }),
    experts: size(1, 8, 2, 4),
    length: size(0, 9, 1, 1),
    segments: size(0, 20, 1, 7),
    pattern: fc.constantFrom('sorted', 'turns', 'random'),
    base: fc.boolean(),
    scaled: fc.boolean(),
    isMasked: fc.boolean(),
    dIn: size(1, 140, 8, 17, 96),
    dOut: size(1, 140, 8, 17, 96),
    seed: fc.integer(),
    outputs: fc.constantFrom('new', 'add', 'overwrite'),
    gap: fc.constantFrom(0, 0, 1, 16),
    isAsync: fc.boolean(),
    isThreeD: fc.boolean(),
    types: fc.constantFrom(...Object.values(TYPES)),
  })
  .map(({ routing, ranks, experts, length, segments, isMasked, types, outputs, gap, isAsync, isThreeD, ...rest }) => {
    const adapters = ranks.map((rank) => ({ routing, rank, experts: routing === 'lora' ? 1 : experts, scaling: 0.5 }))
    const hasSequences = isThreeD || length !== 1 || routing === 'sequence'
    const lengths = hasSequences ? new Array<number>(segments).fill(length) : undefined
    const masked = isMasked && isPooled(routing) ? 0.3 : 0
    const spec = { ...rest, ...types, adapters, tokens: segments * length, lengths, masked }
    return { spec, how: { outputs, gap, isAsync, leading: isThreeD ? [segments, length] : [] } }
  })

// On the emulator a problem takes as long as thousands do on the cpu backend, on the model of AMX as long as tens. WebGPU
// compiles shaders for most problems.
const isSlowest = isEmulated || isWebGpu
const [gate, long] = isWebGpu ? [1, 12] : isEmulated ? [3, 12] : isSlow || isSanitized ? [8, 40] : [15, 150]
const parameters = problems(gate, long)

// A minute for the number of problems of a long run on a slow machine, and in proportion for more.
const timeout = (isSlowest ? 300_000 : 60_000) * Math.max(1, parameters.numRuns / long)

test(
  'random problems with an adapter for each row',
  async () => {
    const check = ({ spec, how }: { spec: RowsSpec; how: HowRows }) => checkRows(makeRowsCase(spec), how)
    await fc.assert(fc.asyncProperty(rowsProblem, check), parameters)
  },
  timeout,
)

describe('random problems', () => {
  for (const routing of ROUTINGS)
    test(routing, { timeout }, async () => {
      await fc.assert(
        fc.asyncProperty(problem(routing), how(routing), async ({ spec, leading }, { deferB, ...rest }) => {
          const canDefer = routing !== 'lora' && rest.needs?.db !== false
          await checkCase(makeCase(spec), { ...rest, leading, deferB: canDefer && deferB })
        }),
        parameters,
      )
    })
})

/** Of a list of fixed problems, those that run: where they are slow, every second one. The turns must reach every routing and type. */
const part = <T>(list: readonly T[], first = 0) => everyNth(isSlowest || isSanitized ? 2 : 1, list, first)
/** An architecture other than the emulator's own has its own engines, which the ragged shapes reach. */
const isOtherArchitecture = isEmulated && process.env.LILY_EMULATOR_ARCH !== undefined && !isLong

// Every number of tokens with every rank; the other sizes, the routing and the data types alternate.
describe('ragged shapes', () => {
  const types = Object.entries(TYPES)
  const pairs = [1, 7, 33, 65].flatMap((tokens) => [4, 8, 33, 128].map((rank) => ({ tokens, rank })))
  pairs.forEach(({ tokens, rank }, i) => {
    // WebGPU compiles shaders for each mode and type: there each number of tokens and each rank runs once.
    for (const turn of isWebGpu && !isLong ? (i % 5 === 0 ? [i] : []) : part([i, i + 3], i >> 2)) {
      const routing = ROUTINGS[turn % ROUTINGS.length]
      const [name, of] = types[(i + turn) % types.length]
      const [dIn, dOut] = [[8, 96, 136][turn % 3], [136, 8, 96][(turn + i) % 3]]
      const experts = routing === 'lora' ? 1 : 1 + (turn % 8)
      const lengths = routing === 'sequence' || routing === 'fixed' ? splitTokens(tokens, 3, turn) : undefined
      test(`${routing} ${[tokens, dIn, dOut, rank, experts].join(', ')}, ${name}`, async () => {
        const c = makeCase({ routing, tokens, dIn, dOut, rank, experts, lengths, ...of, seed: turn })
        await checkCase(c, { outputs: 'add' })
        if (routing !== 'lora') await checkCase(c, { deferB: true })
      })
    }
  })
})

// A softmax of summed logits must not saturate: what remains of the gradient of the router then would be rounding errors.
const pooled = { pool: 'logits', sharpness: 0.05, masked: 0.3 } as const
const large: Spec[] = [
  { routing: 'batch', tokens: 300, dIn: 1023, dOut: 1024, rank: 130, experts: 3, seed: 1 },
  { routing: 'batch', tokens: 1023, dIn: 130, dOut: 2050, rank: 16, experts: 4, ...pooled, seed: 2 },
  { routing: 'token', tokens: 300, dIn: 1024, dOut: 257, rank: 33, experts: 4, seed: 3 },
  { routing: 'token', tokens: 67, dIn: 300, dOut: 530, rank: 200, experts: 2, activation: 'relu', seed: 4 },
  { routing: 'uniform', tokens: 65, dIn: 2050, dOut: 1023, rank: 200, experts: 2, seed: 5 },
  { routing: 'fixed', tokens: 300, dIn: 520, dOut: 1024, rank: 64, experts: 2, lengths: [1, 0, 255, 44], seed: 6 },
  { routing: 'lora', tokens: 1023, dIn: 1024, dOut: 300, rank: 33, experts: 1, seed: 7 },
  { routing: 'lora', tokens: 33, dIn: 700, dOut: 600, rank: 448, experts: 1, seed: 9 },
  { routing: 'batch', tokens: 33, dIn: 600, dOut: 700, rank: 448, experts: 2, activation: 'relu', seed: 8 },
]
// A large rank, and so many tokens that sums over them are split.
const deep: Spec = { routing: 'batch', tokens: 600, dIn: 64, dOut: 96, rank: 136, experts: 2, masked: 0.2, seed: 11 }
const many = isSlow ? 200 : 2000
const ragged = { tokens: many, dIn: 96, dOut: 113, rank: 16, experts: 4, lengths: splitTokens(many, 40, 40) }

/** Smaller problems for the emulator and the model, still with several blocks in every direction. */
function reduced(spec: Spec): Spec {
  const part = (size: number) => (size > 130 ? 100 + (size % 64) : size)
  const { tokens, dIn, dOut, rank, lengths } = spec
  const sizes = { tokens: part(tokens), dIn: part(dIn), dOut: part(dOut), rank: Math.min(rank, 140) }
  return { ...spec, ...sizes, lengths: lengths && splitTokens(sizes.tokens, lengths.length, spec.seed) }
}

if (!isOtherArchitecture) describe('problems that cross block sizes', crossBlockSizes)

function crossBlockSizes(): void {
  // By turns in float32 and in one of the 16-bit types; in a long run in both.
  const names = Object.keys(TYPES).filter((name) => name !== FLOAT32)
  const crossing = [...(isSlow ? large.map(reduced) : large), deep]
  crossing.forEach((spec, i) => {
    for (const types of everyNth(2, [FLOAT32, names[i % names.length]], i))
      test(`${spec.routing} ${[spec.tokens, spec.dIn, spec.dOut, spec.rank, spec.experts].join(', ')}, ${types}`, async () => {
        // The error of one group's few weights varies too much for a comparison with the plain computation.
        const plain = spec.pool !== 'logits'
        await checkCase(makeCase({ ...spec, ...TYPES[types] }), { outputs: 'add', plain })
      })
  })
  // A matrix of E r rows gives enough blocks, and one of G r rows requires splits: deferred gradients have partials.
  const experts = isSlowest && !isLong ? 24 : 64
  for (const types of part([FLOAT32, 'bfloat16'], 1))
    test(`three sequences of ${experts} experts, deferred, ${types}`, async () => {
      const sizes = { tokens: 150, dIn: 33, dOut: 136, rank: 33, experts, lengths: splitTokens(150, 3, 1) }
      const c = makeCase({ ...sizes, ...TYPES[types], routing: 'sequence', seed: 12 })
      await checkCase(c, { deferB: true })
      await checkCase(c, { outputs: 'add' })
    })
  // All tokens share the error of dw, which is nearly all of the error of dRouter here.
  test(`${many} tokens that share a rounding error, bfloat16`, async () => {
    const types = { activations: 'bfloat16', gradients: 'float32' } as const
    const sizes = { tokens: many, dIn: 96, dOut: 8, rank: 16, experts: 3, ...types }
    const c = makeCase({ ...sizes, routing: 'batch', activation: 'relu', sharpness: 0.1, seed: 13 })
    await checkCase(c, { outputs: 'overwrite' })
  })
  // Half of the types; the other tests have all of them.
  const some = everyNth(2, Object.entries(TYPES))
  for (const pool of ['probabilities', 'logits'] as const)
    for (const [name, types] of part(some.slice(0, pool === 'logits' ? 2 : undefined)))
      test(`${many} tokens in 40 ragged sequences, pooled ${pool}, ${name}`, async () => {
        const c = makeCase({ ...ragged, ...types, routing: 'sequence', pool, masked: 0.2, seed: 10 })
        await checkCase(c, { plain: true })
        await checkCase(c, { deferB: true })
      })
}
