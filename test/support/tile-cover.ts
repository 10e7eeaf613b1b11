/**
 * Small problems that together launch every kernel of the CUDA backend with every tile that a plan chooses for them. The
 * tiles follow from the cost function, so the problems are searched for: of a grid of sizes, with the two devices of
 * kernels.ts on one GPU, those that cover the most kernels for the least work.
 */
import { type Gpu } from '../../bench/counters/gpus.js'
import { type PlannedCall, planCalls, type PlannedLaunch } from '../../bench/counters/plan.js'
import type { Spec } from './cases.js'

type Device = Readonly<{ LILY_CUDA_MULTIPROCESSORS: string; LILY_CUDA_L2: string }>

export interface Covered {
  readonly device: Device
  readonly spec: Omit<Spec, 'activations'>
  /** Each kernel with its tiles, as text. */
  readonly kernels: ReadonlySet<string>
}

const TOKENS = [20, 70, 100, 300, 600]
const WIDTHS = [17, 33, 136, 200, 530]
const RANKS = [3, 16, 20, 33, 64, 70, 128, 132, 200]
const METHODS = ['batch', 'token', 'lora'] as const
/** A problem costs at least as much as this many multiply-adds. */
const OVERHEAD = 1e6

/** The properties that plans get with these variables, as native/cuda/device.cc lowers them. */
export function lowered(gpu: Gpu, device: Device): Gpu {
  const multiprocessors = Math.min(gpu.multiprocessors, Number(device.LILY_CUDA_MULTIPROCESSORS))
  const memoryBytesPerSecond = (gpu.memoryBytesPerSecond * multiprocessors) / gpu.multiprocessors
  return { ...gpu, multiprocessors, memoryBytesPerSecond, l2Bytes: Math.min(gpu.l2Bytes, Number(device.LILY_CUDA_L2)) }
}

const nameOf = ({ kernel, tile, stripTile }: PlannedLaunch): string =>
  [kernel, ...[tile, stripTile].filter((each) => each[0] > 0).map((each) => each.join(' x '))].join(', ')

function candidates(scalarBytes: 2 | 4, devices: readonly Device[], present: Gpu): Covered[] {
  // Of 16 bits, float16: Turing has matrix units for it.
  const dtype = scalarBytes === 2 ? 'float16' : 'float32'

  const problems = devices.flatMap((device) => {
    const gpu = lowered(present, device)
    return METHODS.flatMap((method) =>
      TOKENS.flatMap((tokens) =>
        WIDTHS.flatMap((d) =>
          RANKS.flatMap((rank) => {
            const shape = { tokens, d, rank, experts: method === 'lora' ? 1 : 3 }
            return [{ device, method, call: { gpu, shape, dtype, method } satisfies Partial<PlannedCall> }]
          }),
        ),
      ),
    )
  })
  const plans = (['forward', 'backward'] as const).map((direction) =>
    planCalls(problems.map(({ call }) => ({ ...call, direction }))),
  )
  return problems.flatMap(({ device, method, call: { shape } }, i) => {
    // Without tiles that fit into the shared memory of Turing.
    if (plans.some((of) => !of[i].supported)) return []
    const launches = plans.flatMap((of) => of[i].launches)
    const { tokens, d, rank, experts } = shape
    const sizes = { tokens, dIn: d, dOut: d, rank, experts, scaling: 2, seed: i }
    return [{ device, spec: { ...sizes, routing: method }, kernels: new Set(launches.map(nameOf)) }]
  })
}

const work = ({ spec: { tokens, dIn, rank, experts } }: Covered): number => OVERHEAD + tokens * dIn * rank * experts

/**
 * The problems, which have the same plans with both types of elements of that many bytes.
 *
 * @param isCovered false for kernels that need no problem
 */
export function tileCover(
  scalarBytes: 2 | 4,
  devices: readonly Device[],
  gpu: Gpu,
  isCovered: (kernel: string) => boolean = () => true,
): Covered[] {
  const all = candidates(scalarBytes, devices, gpu)
  const left = new Set(all.flatMap(({ kernels }) => [...kernels]).filter(isCovered))
  const chosen: Covered[] = []
  const gain = (each: Covered) => [...each.kernels].filter((kernel) => left.has(kernel)).length / work(each)
  while (left.size > 0) {
    const best = all.reduce((a, b) => (gain(b) > gain(a) ? b : a))
    chosen.push(best)
    for (const kernel of best.kernels) left.delete(kernel)
  }
  return chosen
}
