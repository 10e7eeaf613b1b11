/**
 * Counts of calls on the emulator, relative to the minimum and to LoRA of the same rank. The emulator measures no time.
 * With --plan, the planned launches of calls on GPUs that need not be present, with predicted times.
 */
import { writeFileSync } from 'node:fs'
import { parseNames, readOptions } from '../harness/options.js'
import { type Direction, minimumBytes, productFlops } from '../roofs/work.js'
import { dtypeNames, dtypes } from '../workload/dtypes.js'
import { parseShape, type Shape, shapeText } from '../workload/shapes.js'
import { count, type Counts } from './count.js'
import { type Job, methods } from './counted-call.js'
import { gpuNames } from './gpus.js'
import { printPlans } from './print-plans.js'

interface Result extends Job {
  readonly direction: Direction
  readonly counts: Counts
  readonly lora: Counts
  /** Minimum number of bytes moved and of MMA instructions; 0 instructions if the call does not use the matrix units. */
  readonly fewest: { readonly bytes: number; readonly matrixInstructions: number }
}

/** The shapes of the budgets, r = 128, and decoding of a small batch: together some minutes on the emulator. */
const shapes: readonly Shape[] = [
  { tokens: 1024, d: 1024, rank: 16, experts: 4 },
  { tokens: 512, d: 2048, rank: 64, experts: 4 },
  { tokens: 1024, d: 1024, rank: 128, experts: 4 },
  { tokens: 512, d: 1024, rank: 448, experts: 2 },
  { tokens: 1, d: 4096, rank: 16, experts: 4 },
  { tokens: 64, d: 4096, rank: 16, experts: 4 },
]

/** FLOPs of one mma.m16n8k16. float32 does not use the matrix units by default. */
const MATRIX_FLOPS = 2 * 16 * 8 * 16

function resultsOf(job: Job, counts: Record<Direction, Counts>, lora: Record<Direction, Counts>): Result[] {
  const { shape, dtype, method } = job
  const usesMatrixUnits = dtypes[dtype].activations !== 'float32'
  return (['forward', 'backward'] as const).map((direction) => ({
    ...job,
    direction,
    counts: counts[direction],
    lora: lora[direction],
    fewest: {
      bytes: minimumBytes(direction, shape, method === 'lora' ? 'none' : method, dtypes[dtype]),
      matrixInstructions: usesMatrixUnits ? productFlops(direction, shape) / MATRIX_FLOPS : 0,
    },
  }))
}

const ratio = (a: number, b: number): string => (b === 0 ? '-' : (a / b).toFixed(3))
const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(2)

const columns: readonly [title: string, width: number, cell: (result: Result) => string][] = [
  ['M, d, r, E', 18, ({ shape }) => shapeText(shape)],
  ['', 9, ({ dtype }) => dtype],
  ['', 9, ({ method }) => method],
  ['', 9, ({ direction }) => direction],
  ['launches', 9, ({ counts }) => String(counts.launches)],
  ['MiB touched', 13, ({ counts }) => mebibytes(counts.touched)],
  ['/ fewest', 10, ({ counts, fewest }) => ratio(counts.touched, fewest.bytes)],
  ['MiB requested', 15, ({ counts }) => mebibytes(counts.requested)],
  ['coalescing', 12, ({ counts }) => counts.coalescing.toFixed(3)],
  ['wavefronts', 12, ({ counts }) => counts.wavefronts.toFixed(3)],
  ['mma', 10, ({ counts }) => String(counts.matrixInstructions)],
  ['/ fewest', 10, ({ counts, fewest }) => ratio(counts.matrixInstructions, fewest.matrixInstructions)],
  ['bytes / LoRA', 14, ({ counts, lora }) => ratio(counts.touched, lora.touched)],
  ['mma / LoRA', 12, ({ counts, lora }) => ratio(counts.matrixInstructions, lora.matrixInstructions)],
]

function printRow(cells: readonly string[]): void {
  const padded = cells.map((cell, i) => {
    const width = columns[i]?.[1] ?? 0
    return i < 4 ? cell.padEnd(width) : cell.padStart(width)
  })
  console.log(padded.join(''))
}

const usage = `npm run bench:counters -- [options]
  --plan M,d,r,E    print the planned launches of this shape and their predicted times instead of counts; repeatable
  --device NAME     GPU of the plans: ${gpuNames.join(', ')}; repeatable (default: h100)
  --shape M,d,r,E   shape of the layer; repeatable (default: a list of six shapes)
  --method NAME     ${methods.join(', ')}; repeatable (default: all but uniform)
  --dtype NAME      ${dtypeNames.join(', ')}; repeatable (default: bfloat16)
  --arch SM         compute capability of the emulated GPU (default: 90)
  --json FILE       write all counts as JSON to FILE
  --help            show this help`

const repeatable = { type: 'string', multiple: true } as const
const options = readOptions(usage, {
  shape: repeatable,
  method: repeatable,
  dtype: repeatable,
  arch: { type: 'string', default: '90' },
  json: { type: 'string' },
  plan: repeatable,
  device: repeatable,
})

const selectedMethods = parseNames('method', methods, options.method ?? ['batch', 'sequence', 'token', 'lora'])
const selectedTypes = parseNames('dtype', dtypeNames, options.dtype ?? ['bfloat16'])
const selectedShapes = options.shape?.map(parseShape) ?? shapes

if (options.plan !== undefined) {
  const devices = parseNames('device', gpuNames, options.device ?? ['h100'])
  printPlans(options.plan.map(parseShape), devices, selectedMethods, selectedTypes)
  process.exit()
}

console.log(
  'Counts of the emulator; y, dx and all gradients are accumulated.\n' +
    'touched: bytes of the distinct sectors of each launch; requested: bytes of all sectors that are requested\n' +
    'coalescing: sectors relative to contiguous accesses; wavefronts: relative to accesses without bank conflicts\n' +
    'mma: m16n8k16 instructions; fewest: the minimum for this shape\n',
)
printRow(columns.map(([title]) => title))
const results: Result[] = []
for (const shape of selectedShapes)
  for (const dtype of selectedTypes) {
    const lora = await count({ shape, dtype, method: 'lora' }, options.arch)
    for (const method of selectedMethods) {
      const job: Job = { shape, dtype, method }
      const found = resultsOf(job, method === 'lora' ? lora : await count(job, options.arch), lora)
      results.push(...found)
      for (const result of found) printRow(columns.map(([, , cell]) => cell(result)))
    }
  }
if (options.json !== undefined)
  writeFileSync(options.json, JSON.stringify({ sectorBytes: 32, results }, null, 2) + '\n')
