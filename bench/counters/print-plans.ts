/** Prints the launches of plans with what the backend's model predicts of them. */
import type { Direction } from '../roofs/work.js'
import type { DTypeName } from '../workload/dtypes.js'
import { type Shape, shapeText } from '../workload/shapes.js'
import type { Job } from './counted-call.js'
import { type GpuName, gpus } from './gpus.js'
import { floorSeconds, planCall, type PlannedLaunch, predictedSeconds, requested, touched } from './plan.js'

const WARP = 32

const sizes = (tile: PlannedLaunch['tile']): string => (tile.every((size) => size === 0) ? '' : tile.join('x'))
const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)
const micro = (seconds: number): string => (1e6 * seconds).toFixed(1)

const columns: readonly [title: string, width: number, cell: (launch: PlannedLaunch) => string][] = [
  ['', 18, ({ kernel }) => kernel],
  ['tile', 23, ({ tile, stripTile }) => [sizes(tile), sizes(stripTile)].filter(Boolean).join(' ')],
  ['blocks', 8, ({ blocks }) => String(blocks)],
  ['waves', 8, ({ waves }) => waves.toFixed(2)],
  ['warps/SM', 10, ({ resident, threads }) => String((resident * threads) / WARP)],
  ['KB in flight/SM', 17, ({ inFlight }) => (inFlight / 1000).toFixed(0)],
  ['MiB memory', 12, (launch) => mebibytes(launch.touched + launch.reread)],
  ['MiB L2', 9, (launch) => mebibytes(launch.requested)],
  ['us', 8, (launch) => micro(launch.seconds)],
]

const row = (cells: readonly string[]): string =>
  cells
    .map((cell, i) => (i < 2 ? cell.padEnd(columns[i][1]) : cell.padStart(columns[i][1])))
    .join('')
    .trimEnd()

export function printPlans(
  shapes: readonly Shape[],
  devices: readonly GpuName[],
  methods: readonly Job['method'][],
  types: readonly DTypeName[],
): void {
  console.log(
    'Plans, with all outputs required and accumulated. Times are predicted, not measured.\n' +
      'memory: bytes that a launch touches, and those that memory delivers twice; L2: bytes of all sectors requested\n',
  )
  console.log(row(columns.map(([title]) => title)))
  for (const shape of shapes)
    for (const name of devices)
      for (const dtype of types)
        for (const method of methods)
          for (const direction of ['forward', 'backward'] as const satisfies readonly Direction[]) {
            const gpu = gpus[name]
            const plan = planCall({ gpu, shape, dtype, method, direction })
            console.log(`\n(${shapeText(shape)}) ${name} ${dtype} ${method} ${direction}`)
            if (!plan.supported) console.log('no tile fits into the shared memory of this device')
            for (const launch of plan.launches) console.log(row(columns.map(([, , cell]) => cell(launch))))
            const seconds = predictedSeconds(plan)
            const floor = floorSeconds(gpu, direction, shape, method, dtype)
            console.log(
              `predicted ${micro(seconds)} us, floor ${micro(floor)} us (${((100 * floor) / seconds).toFixed(0)} %); ` +
                `requested ${(requested(plan) / touched(plan)).toFixed(2)} times what is touched`,
            )
          }
}
