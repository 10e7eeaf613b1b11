/**
 * Plans of calls on GPUs that need not be present, and what the model of time predicts of them: bytes and times. A program
 * that is built with the backend (model/print_plans.cc) makes them, with the code of the backend itself.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type Direction, phasesOf } from '../roofs/work.js'
import { architectureOf } from '../../scripts/cuda-targets.js'
import { type DTypeName, dtypes, type Float } from '../workload/dtypes.js'
import { sequenceOffsets } from '../workload/sequences.js'
import type { Shape } from '../workload/shapes.js'
import type { Job } from './counted-call.js'
import type { Constants } from './fit.js'
import type { Gpu } from './gpus.js'

type TileTable = 'shrink' | 'strip' | 'large' | 'mix'
type Sizes = readonly [blockM: number, blockN: number, blockK: number]

export interface PlannedLaunch {
  readonly kernel: string
  /** Zeros if the kernel has no tiles. */
  readonly tile: Sizes
  /** Tile of the column blocks of backward_dy. */
  readonly stripTile: Sizes
  readonly blocks: number
  readonly threads: number
  readonly sharedBytes: number
  /** Blocks that a multiprocessor holds. */
  readonly resident: number
  /** Blocks, relative to what all multiprocessors hold at once. */
  readonly waves: number
  /** Bytes of loads in flight per multiprocessor. */
  readonly inFlight: number
  /** Bytes of the distinct sectors, of the sectors that memory delivers twice, and of all sectors requested. */
  readonly touched: number
  readonly reread: number
  readonly requested: number
  /** Predicted, not measured: of the launch, of its traffic with L2 alone, and of its products alone. */
  readonly seconds: number
  readonly l2Seconds: number
  readonly busySeconds: number
}

export interface Plan {
  /** Whether the tiles fit into the shared memory of the device. */
  readonly supported: boolean
  readonly workspaceBytes: number
  readonly launches: readonly PlannedLaunch[]
}

/** `fixed` has one group of all tokens. */
export type PlannedMethod = Job['method'] | 'fixed'

export interface PlannedCall extends Omit<Job, 'method'> {
  readonly method: PlannedMethod
  readonly gpu: Gpu
  readonly direction: Direction
  /** Restricts the choice to one row of a table. */
  readonly only?: Readonly<Partial<Record<TileTable, Sizes>>>
}

const program = fileURLToPath(new URL('../../build/plans/lily_print_plans', import.meta.url))

/** As in the C ABI. */
const routings = { batch: 0, sequence: 1, token: 2, uniform: 3, fixed: 4, lora: 5 } satisfies Record<
  PlannedMethod,
  number
>
const dtypeNumbers = { float32: 0, bfloat16: 1, float16: 2 } satisfies Record<Float, number>

const ANY: Sizes = [0, 0, 0]

function lineOf({
  gpu,
  direction,
  shape: { tokens, d, rank, experts },
  method,
  dtype,
  only,
  ...list
}: PlannedCall): string {
  const { activations, parameters } = dtypes[dtype]
  return [
    gpu.capability,
    architectureOf(gpu.capability),
    gpu.multiprocessors,
    gpu.l2Bytes,
    gpu.sharedBytesPerBlock,
    gpu.sharedBytesPerMultiprocessor,
    gpu.threadsPerMultiprocessor,
    gpu.clockHz,
    gpu.memoryBytesPerSecond,
    direction === 'forward' ? 0 : 1,
    tokens,
    d,
    d,
    rank,
    method === 'lora' ? 1 : experts,
    method === 'sequence' ? sequenceOffsets(tokens).length - 1 : 1,
    routings[method],
    dtypeNumbers[activations],
    dtypeNumbers[parameters],
    ...[only?.shrink ?? ANY, only?.strip ?? ANY, only?.large ?? ANY, only?.mix ?? ANY].flat(),
    list.adapters ?? 1,
    list.scattered === true ? 1 : 0,
  ].join(' ')
}

function run(input: string, ...args: readonly string[]): string {
  const { error, status, stdout, stderr } = spawnSync(program, args, { input, encoding: 'utf8', maxBuffer: 2 ** 30 })
  if (error !== undefined)
    throw new Error(
      `${program}: ${error.message}; run npm run build:native, then cmake --build build/cmake --target lily_print_plans`,
    )
  if (status !== 0) throw new Error(`${program}: ${stderr}`)
  return stdout
}

/** The constants of a GPU, by name. */
export const constantsOf = ({ capability }: Pick<Gpu, 'capability'>): Constants =>
  JSON.parse(run('', '--show-constants', String(capability))) as Constants

/**
 * All outputs are required and accumulate.
 *
 * @param predictedWith constants of the GPU for predictions alone; the library's constants make the choices
 */
export function planCalls(calls: readonly PlannedCall[], predictedWith: Constants = {}): Plan[] {
  const list = Object.entries(predictedWith).map(([name, value]) => `${name}=${value}`)
  return run(
    calls.map((call) => `${lineOf(call)}\n`).join(''),
    ...(list.length > 0 ? ['--predict', list.join(',')] : []),
  )
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Plan)
}

/** The tiles of each kernel; of backward_dy the tiles of token blocks and of column blocks. */
export interface TileRows extends Readonly<
  Record<'shrink' | 'expand' | 'x' | 'mix' | 'decode' | 'once' | 'large', Sizes[]>
> {
  readonly dy: readonly (readonly [tokens: Sizes, columns: Sizes])[]
}

/** The rows of the tables from which a plan for a GPU chooses, for tiles whose elements have 2 or 4 bytes. */
export const tileRows = (scalarBytes: 2 | 4, { capability }: Pick<Gpu, 'capability'>): TileRows =>
  JSON.parse(run('', '--rows', String(scalarBytes), String(architectureOf(capability)))) as TileRows

export const planCall = (call: PlannedCall): Plan => planCalls([call])[0]

const sum = (plan: Plan, of: (launch: PlannedLaunch) => number): number =>
  plan.launches.reduce((total, launch) => total + of(launch), 0)

export const touched = (plan: Plan): number => sum(plan, (launch) => launch.touched)
export const moved = (plan: Plan): number => sum(plan, (launch) => launch.touched + launch.reread)
export const requested = (plan: Plan): number => sum(plan, (launch) => launch.requested)
export const predictedSeconds = (plan: Plan): number => sum(plan, (launch) => launch.seconds)

/** Shares of the data sheet's rates that good programs reach: 3.0 of 3.35 TB/s and 800 of 989e12 FLOP/s on an H100. */
const MEMORY_SHARE = 0.9
const MATRIX_SHARE = 0.8

/** The time that the minimum of bytes and FLOPs of each phase takes. */
export function floorSeconds(
  gpu: Gpu,
  direction: Direction,
  shape: Shape,
  method: PlannedMethod,
  dtype: DTypeName,
): number {
  const phases = phasesOf(shape, method === 'lora' ? 'none' : method, dtypes[dtype], true)
  return (direction === 'forward' ? phases.slice(0, 2) : phases.slice(2)).reduce((total, phase) => {
    const memory = (phase.read + phase.reread + 2 * phase.updated) / (gpu.memoryBytesPerSecond * MEMORY_SHARE)
    return total + Math.max(memory, phase.flops / (gpu.matrixFlopsPerSecond * MATRIX_SHARE))
  }, 0)
}
