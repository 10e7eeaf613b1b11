/**
 * The AMX kernels, bit for bit against the model of their instructions: on the hardware, or where there is none, on emulated
 * tile registers.
 */
import { beforeAll, expect, test } from 'vitest'
import type { Diagnosis } from '../../cli/doctor/diagnosis.js'
import { isLong } from '../support/runs.js'
import { type Spec, splitTokens } from '../support/cases.js'
import { type Job, type Report, runInChild } from '../support/child.js'
import { runCli } from '../support/cli.js'
import { expectSameBits } from '../support/compare.js'
import { LEAST_TERMS_RANK, TYPES } from '../support/dtypes.js'
import type { Values } from '../support/run.js'
import { temporaryFolder } from '../support/temporary.js'
import { emulatedTiles } from '../support/tiles.js'

const odd = { tokens: 90, dIn: 545, dOut: 1060, rank: 33, experts: 3, scaling: 2 }
const specs: Spec[] = [
  { ...odd, routing: 'batch', seed: 1 },
  { ...odd, routing: 'batch', pool: 'logits', masked: 0.3, activation: 'relu', seed: 2 },
  { ...odd, routing: 'sequence', lengths: splitTokens(odd.tokens, 5, 1), masked: 0.3, seed: 3 },
  { ...odd, routing: 'token', seed: 4 },
  { ...odd, routing: 'fixed', lengths: splitTokens(odd.tokens, 3, 1), seed: 5 },
  { ...odd, routing: 'lora', experts: 1, seed: 6 },
  { ...odd, routing: 'batch', tokens: 1, rank: 16, seed: 7 },
  { ...odd, routing: 'batch', tokens: 19, rank: 136, seed: 8 },
  { ...odd, routing: 'batch', tokens: 600, rank: 264, dIn: 64, dOut: 160, seed: 9 },
  // Products and sums that are subnormal in float32, which the unit flushes.
  { ...odd, routing: 'batch', scaling: 2 ** -120, seed: 10 },
]
const inTerms = (spec: Spec): Spec => ({ ...spec, rank: Math.max(spec.rank, LEAST_TERMS_RANK + 1), precision: 'tf32' })

const jobs: Job[] = specs.flatMap((spec) =>
  [{ ...spec, ...TYPES.bfloat16 }, { ...spec, ...TYPES['mixed bfloat16'] }, inTerms(spec)].map((of) => ({
    spec: of,
    how: { outputs: 'add' } as const,
  })),
)

const runOn = (isa: string, some: Job[], env: Record<string, string> = {}): Promise<Report> =>
  runInChild(some, { LILY_CPU_ISA: isa, ...env })

const folder = temporaryFolder()
/** The environment in which the AMX kernels run, or the reason why they do not. */
let environment: Record<string, string> | string = {}
/** The emulator takes a microsecond per instruction: of each problem one type, by turns. */
let some = jobs

beforeAll(async () => {
  const onHardware = await runOn('amx', [])
  if (onHardware.backend.available) return
  some = isLong ? jobs : jobs.filter((_, i) => i % 3 === Math.floor(i / 3) % 3)
  environment = emulatedTiles(folder)
  if (typeof environment === 'string') return
  const emulated = await runOn('amx', [], environment)
  if (!emulated.backend.available) environment = emulated.backend.reason ?? 'no reason given'
}, 120_000)

test('the machine code computes the bits of the model', async (context) => {
  if (typeof environment === 'string') return context.skip(environment)
  const machine = await runOn('amx', some, environment)
  expect(machine.backend.devices[0].simd, 'the permission was granted').toBe('amx')
  const model = await runOn('amx-model', some)
  expect(machine.results.length).toBe(some.length)
  machine.results.forEach(({ values, damaged }, i) => {
    expect(damaged, 'operands written to where they must not be').toEqual([])
    for (const [name, value] of Object.entries(model.results[i].values)) {
      expectSameBits(`${name} of job ${i}`, values[name as keyof Values] ?? new Float32Array(), value)
    }
  })
})

test('the machine code has terms of bfloat16 from their least rank on', async (context) => {
  if (typeof environment === 'string') return context.skip(environment)
  const ofRank = (rank: number, precision: Spec['precision']): Job => ({
    spec: { ...odd, routing: 'batch', rank, precision, seed: 11 },
    how: {},
  })
  const ranks = [LEAST_TERMS_RANK - 1, LEAST_TERMS_RANK]
  const both = ranks.flatMap((rank) => [ofRank(rank, 'default'), ofRank(rank, 'tf32')])
  const { results } = await runOn('amx', both, environment)
  const [narrow, narrowTf32, wide, wideTf32] = results.map(({ values }) => values.y ?? new Float32Array())
  expectSameBits('y below', narrowTf32, narrow)
  expect(wideTf32).not.toEqual(wide)
})

test('doctor tests the tile registers', async (context) => {
  if (typeof environment === 'string') return context.skip(environment)
  const doctor = async (env: Record<string, string>) => {
    const { stdout } = await runCli(['doctor', '--json'], { LILY_CPU_ISA: 'amx', ...env })
    const [cpu] = (JSON.parse(stdout) as Diagnosis).backends
    expect(cpu.devices[0].simd).toBe('amx')
    return cpu.selfTest
  }
  expect(await doctor(environment)).toEqual({ passed: true })
  if (Object.keys(environment).length === 0) return // the hardware cannot fail
  expect(await doctor({ ...environment, LILY_TEST_WRONG_TILES: '1' })).toEqual({
    passed: false,
    reason: 'y in bfloat16 is 0,0,0,0,0,0,0,0, expected 3,6,7,14,3,6,7,14',
  })
})

// The portable kernels do not round float32 parameters to bfloat16.
test('the model does not run the vector kernels', async () => {
  const mixed = jobs.filter(({ spec }) => spec.parameters === 'float32').slice(0, 1)
  const model = await runOn('amx-model', mixed)
  const vectors = await runOn('portable', mixed)
  expect(model.backend.devices[0].simd).toBe('amx-model')
  mixed.forEach((_, i) => {
    expect(model.results[i].values.da).not.toEqual(vectors.results[i].values.da)
  })
})
