/**
 * Equal inputs give bit-equal results: from run to run, and with any number of threads.
 *
 * @project cpu amx wasm webgpu cuda @tsan
 */
import { describe, expect, test } from 'vitest'
import { backend, isSanitized, isSlow, isWebGpu } from '../support/backend.js'
import { isLong } from '../support/runs.js'
import { makeCase, makeRowsCase, type Spec, splitTokens } from '../support/cases.js'
import { type Job, runInChild } from '../support/child.js'
import { expectSameBits } from '../support/compare.js'
import { FLOAT32, SIXTEEN_BITS, TYPES } from '../support/dtypes.js'
import { runRows } from '../support/rows.js'
import { run, type Values } from '../support/run.js'

const large = { tokens: 257, dIn: 384, dOut: 520 }
// Where kernels are slow too, several blocks of tokens and of columns.
const small = { tokens: 130, dIn: 96, dOut: 136 }
const medium = { ...(isSlow ? small : large), rank: 33, experts: 3, scaling: 2 }
const ragged = { ...medium, lengths: splitTokens(medium.tokens, 9, 1) }

const specs: Spec[] = [
  { ...medium, routing: 'batch', seed: 1 },
  { ...medium, routing: 'batch', pool: 'logits', masked: 0.3, activation: 'relu', seed: 2 },
  { ...ragged, routing: 'sequence', masked: 0.3, seed: 3 },
  { ...ragged, routing: 'sequence', pool: 'logits', seed: 4 },
  { ...medium, routing: 'token', seed: 5 },
  { ...medium, routing: 'uniform', seed: 6 },
  { ...ragged, routing: 'fixed', seed: 7 },
  { ...medium, routing: 'lora', experts: 1, seed: 8 },
]
const larger: Spec[] = [
  { routing: 'batch', tokens: 1, dIn: 2048, dOut: 2048, rank: 16, experts: 4, seed: 9 },
  { routing: 'batch', tokens: 1100, dIn: 256, dOut: 192, rank: 8, experts: 4, seed: 10 },
  { routing: 'token', tokens: 1100, dIn: 64, dOut: 96, rank: 8, experts: 4, seed: 11 },
  { routing: 'batch', tokens: 40, dIn: 1024, dOut: 1100, rank: 400, experts: 2, seed: 12 },
  { routing: 'lora', tokens: 1100, dIn: 256, dOut: 192, rank: 8, experts: 1, seed: 13 },
]

// Whether D is stored depends on the threads: dw is the product with one tile of the rank, or with several.
const manyRanks: Job = {
  spec: { routing: 'batch', tokens: 900, dIn: 2048, dOut: 2048, rank: 260, experts: 2, seed: 14, ...TYPES[FLOAT32] },
  how: { needs: { dx: false, da: false, db: false } },
}

// Every problem in float32, and in one of the 16-bit types by turns.
const all: Job[] = [...specs, ...(isSlow ? [] : larger)].flatMap((spec, i) => [
  { spec: { ...spec, ...TYPES[FLOAT32] }, how: { outputs: 'add' } },
  { spec: { ...spec, ...SIXTEEN_BITS[i % SIXTEEN_BITS.length] }, how: { outputs: 'add' } },
  ...(spec.routing === 'lora'
    ? []
    : [
        { ...spec, ...TYPES[FLOAT32] },
        // On WebGPU compiling takes long.
        ...(isWebGpu && !isLong ? [] : [{ ...spec, ...SIXTEEN_BITS[(i + 2) % SIXTEEN_BITS.length] }]),
      ].map((deferred) => ({
        spec: deferred,
        how: { deferB: true },
      }))),
])
// A sanitizer sees a race in any of them: a third has every routing, with both forms of dB in both types.
const jobs = isSanitized ? all.filter((_, i) => i % 3 === 1) : isSlow ? all : [...all, manyRanks]

type Named = Readonly<Record<string, Float32Array | undefined>>

function expectSameValues(actual: Named, expected: Named): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected))
  for (const [name, values] of Object.entries(expected))
    expectSameBits(name, actual[name] ?? new Float32Array(), values ?? new Float32Array())
}

const here: Values[] = []
for (const { spec, how } of jobs) here.push((await run(makeCase(spec), how)).values)
const typesOf = ({ activations = 'float32', parameters = activations, precision = 'default' }: Spec) =>
  `${activations} ${parameters} ${precision}`

const title = ({ spec, how }: Job) =>
  [
    spec.routing,
    spec.tokens,
    spec.dIn,
    spec.dOut,
    spec.rank,
    spec.experts,
    typesOf(spec),
    how.deferB ? 'dB deferred' : '',
  ]
    .join(' ')
    .trim()

describe('a second run', () => {
  jobs.forEach((job, i) => {
    test(title(job), async () => {
      expectSameValues((await run(makeCase(job.spec), job.how)).values, here[i])
    })
  })
})

// The steps of the adapters of a call run side by side.
test('a second call with an adapter for each row', async () => {
  const adapters = [5, 16, 33].map((rank) => ({ routing: 'batch', rank, experts: 3 }) as const)
  const c = makeRowsCase({ ...(isSlow ? small : large), ...TYPES[FLOAT32], adapters, pattern: 'random', seed: 15 })
  const [first, second] = [await runRows(c), await runRows(c)]
  for (const name of ['y', 'dx'] as const) expectSameBits(name, second[name], first[name])
  for (const [k, values] of first.each.entries()) expectSameValues(second.each[k], values)
})

// The register tile reads columns of x and dy in place or copies them, which may depend on their alignment.
if (!isSlow)
  test('where operands begin does not show in the bits', async () => {
    const c = makeCase({ ...larger[3], ...TYPES[FLOAT32] })
    const { values } = await run(c)
    // Of any four starts that are 16 bytes apart one is at a cache line.
    for (const margin of [4, 8, 12, 1])
      expectSameValues((await run(c, { layout: () => ({ gap: 0, margin }) })).values, values)
  })

// LILY_NUM_THREADS applies to the cpu backend only.
if (backend === 'cpu') {
  // One thread races with none. Where 1 and 3 give the bits of this process, so do 2 and 4.
  for (const threads of isSanitized ? [4] : [1, 3])
    test(`LILY_NUM_THREADS=${threads}`, async () => {
      const { backend: found, results } = await runInChild(jobs, { LILY_NUM_THREADS: String(threads) })
      expect(found.devices[0].threads).toBe(threads)
      expect(results.length).toBe(jobs.length)
      results.forEach(({ values }, i) => {
        expectSameValues(values, here[i])
      })
    })

  // A process that is refused computes nothing that a sanitizer could see; `npm test` has these tests.
  for (const value of isSanitized ? [] : ['0', '-1', '2.5', 'many', '257'])
    test(`LILY_NUM_THREADS=${value} is rejected with the reason`, async () => {
      const { backend, refused } = await runInChild(jobs.slice(0, 1), { LILY_NUM_THREADS: value })
      expect(backend.available).toBe(false)
      expect(backend.reason).toContain('LILY_NUM_THREADS')
      expect(refused?.code).toBe('ERR_LILY_BACKEND_UNAVAILABLE')
      expect(refused?.message).toContain('LILY_NUM_THREADS')
    })
}
