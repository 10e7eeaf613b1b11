/** What calls do on the emulator, in counts against the fewest possible, beside LoRA of the same rank. No time is one. */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { dtypeNames, dtypes } from '../dtypes.js'
import { type Direction, fewestBytes, productFlops } from '../floor.js'
import { parseShape, type Shape } from '../shapes.js'
import { count, type Counts } from './count.js'
import { type Job, methods } from './counted-call.js'

interface Result extends Job {
  readonly direction: Direction
  readonly counts: Counts
  readonly lora: Counts
  /** Bytes, and instructions of matrix units of one product each; 0 where they are not used. */
  readonly fewest: { readonly bytes: number; readonly matrixInstructions: number }
}

/** Those of the budgets, r = 128, and a small batch that decodes: what the emulator bears in minutes. */
const shapes: readonly Shape[] = [
  { tokens: 1024, d: 1024, rank: 16, experts: 4 },
  { tokens: 512, d: 2048, rank: 64, experts: 4 },
  { tokens: 1024, d: 1024, rank: 128, experts: 4 },
  { tokens: 512, d: 1024, rank: 448, experts: 2 },
  { tokens: 1, d: 4096, rank: 16, experts: 4 },
  { tokens: 64, d: 4096, rank: 16, experts: 4 },
]

/** FLOPs of mma.m16n8k16; float32 is computed without matrix units unless TF32 is asked for. */
const MATRIX_FLOPS = 2 * 16 * 8 * 16

function resultsOf(job: Job, counts: Record<Direction, Counts>, lora: Record<Direction, Counts>): Result[] {
  const { shape, dtype, method } = job
  const usesUnits = dtypes[dtype].activations !== 'float32'
  return (['forward', 'backward'] as const).map((direction) => ({
    ...job,
    direction,
    counts: counts[direction],
    lora: lora[direction],
    fewest: {
      bytes: fewestBytes(direction, shape, method === 'lora' ? 'none' : method, dtypes[dtype]),
      matrixInstructions: usesUnits ? productFlops(direction, shape) / MATRIX_FLOPS : 0,
    },
  }))
}

const ratio = (a: number, b: number): string => (b === 0 ? '-' : (a / b).toFixed(3))
const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(2)

const columns: readonly [title: string, width: number, cell: (result: Result) => string][] = [
  ['M, d, r, E', 18, ({ shape: s }) => [s.tokens, s.d, s.rank, s.experts].join(', ')],
  ['', 9, ({ dtype }) => dtype],
  ['', 9, ({ method }) => method],
  ['', 9, ({ direction }) => direction],
  ['launches', 9, ({ counts }) => String(counts.launches)],
  ['MiB touched', 13, ({ counts }) => mebibytes(counts.touched)],
  ['/ fewest', 10, ({ counts, fewest }) => ratio(counts.touched, fewest.bytes)],
  ['MiB asked', 11, ({ counts }) => mebibytes(counts.requested)],
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
  --shape M,d,r,E   instead of the usual shapes; may be given several times
  --method NAME     ${methods.join(', ')}; several times; all but uniform by default
  --dtype NAME      ${dtypeNames.join(', ')}; several times; bfloat16 by default
  --arch SM         of the emulated GPU; 80 by default
  --json FILE       everything counted, as JSON
  --help`

const several = { type: 'string', multiple: true } as const
const { values: options } = parseArgs({
  options: {
    shape: several,
    method: several,
    dtype: several,
    arch: { type: 'string', default: '80' },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}

function known<Name extends string>(option: string, names: readonly Name[], given: readonly string[]): Name[] {
  return given.map((name) => {
    const found = names.find((each) => each === name)
    if (found === undefined) throw new Error(`--${option} takes ${names.join(', ')}, not ${name}`)
    return found
  })
}

const chosenMethods = known('method', methods, options.method ?? ['batch', 'sequence', 'token', 'lora'])
const chosenTypes = known('dtype', dtypeNames, options.dtype ?? ['bfloat16'])
const chosenShapes = options.shape?.map(parseShape) ?? shapes

console.log(
  'emulated: bytes of sectors touched at least once in a launch, and of all asked for; y, dx and all gradients accumulated\n' +
    'into; sectors and cycles of shared memory against those of contiguous and conflict-free accesses;\n' +
    'm16n8k16 instructions\n',
)
printRow(columns.map(([title]) => title))
const results: Result[] = []
for (const shape of chosenShapes)
  for (const dtype of chosenTypes) {
    const lora = await count({ shape, dtype, method: 'lora' }, options.arch)
    for (const method of chosenMethods) {
      const job: Job = { shape, dtype, method }
      const found = resultsOf(job, method === 'lora' ? lora : await count(job, options.arch), lora)
      results.push(...found)
      for (const result of found) printRow(columns.map(([, , cell]) => cell(result)))
    }
  }
if (options.json !== undefined)
  writeFileSync(options.json, JSON.stringify({ sectorBytes: 32, results }, null, 2) + '\n')
