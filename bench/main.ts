/** The microbenchmark: fused Lily against fused LoRA of the same rank, through the public API, on this machine. */
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { backends, lilyBackward, lilyForward, loraBackward, loraForward } from '../lib/index.js'
import { floor } from './floor.js'
import { compare, type Comparison } from './measure.js'
import { filled, makeOperands, zeros } from './operands.js'
import { measureRoofs, type Roofs } from './roofs.js'
import { dtypes, parseShape, shapes, type DTypeName, type DTypes, type Shape } from './shapes.js'

interface Result extends Comparison {
  readonly shape: Shape
  readonly what: 'forward' | 'forward+backward'
  /** Seconds. */
  readonly floor: number
  readonly loraFloor: number
}

/** One shape, both methods on the same activations; every output is given and accumulated into. */
function measureShape(shape: Shape, types: DTypes, seconds: number, roofs: Roofs): Result[] {
  const { x, dy, y, dx, a, da, router, dRouter, b, db, loraB, loraDb } = makeOperands(shape, types)

  const forward = compare(
    () => lilyForward({ x, a, router, b, y }).saved.dispose(),
    () => loraForward({ x, a, b: loraB, y }).saved.dispose(),
    seconds,
  )
  const both = compare(
    () => {
      const { saved } = lilyForward({ x, a, router, b, y })
      lilyBackward({ dy, dx, da, dRouter, db }, saved)
      saved.dispose()
    },
    () => {
      const { saved } = loraForward({ x, a, b: loraB, y })
      loraBackward({ dy, dx, da, db: loraDb }, saved)
      saved.dispose()
    },
    seconds,
  )
  const result = (what: Result['what'], comparison: Comparison): Result => ({
    shape,
    what,
    ...comparison,
    floor: floor('lily', shape, types, what !== 'forward', roofs),
    loraFloor: floor('lora', shape, types, what !== 'forward', roofs),
  })
  return [result('forward', forward), result('forward+backward', both)]
}

interface Overhead {
  readonly forward: number
  readonly backward: number
}

/**
 * Microseconds of whole calls whose kernels have next to nothing to do: an upper bound of what validation, binding and
 * allocation cost.
 */
function measureOverhead(): Overhead {
  const operands = {
    x: filled([1, 8], 1),
    a: filled([4, 8], 1),
    router: filled([2, 4], 1),
    b: filled([2, 4, 8], 1),
    y: zeros([1, 8]),
  }
  const { saved } = lilyForward(operands)
  const gradients = {
    dy: filled([1, 8], 1),
    dx: zeros([1, 8]),
    da: zeros([4, 8]),
    dRouter: zeros([2, 4]),
    db: zeros([2, 4, 8]),
  }
  const forward = (): void => {
    lilyForward(operands)
  }
  const backward = (): void => {
    lilyBackward(gradients, saved)
  }
  for (let warm = 0; warm < 20_000; warm++) {
    forward()
    backward()
  }
  const { a, b } = compare(forward, backward, 1)
  return { forward: a.median * 1e6, backward: b.median * 1e6 }
}

const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}
const percent = (share: number): string => `${(share * 100).toFixed(0)}%`

const columns: readonly [title: string, cell: (result: Result) => string][] = [
  ['M, d, r, E', ({ shape: s }) => `${s.tokens}, ${s.d}, ${s.rank}, ${s.experts}`],
  ['', ({ what }) => what],
  ['Lily ms', ({ a }) => milliseconds(a.median)],
  ['spread', ({ a }) => `±${percent(a.spread)}`],
  ['of floor', ({ a, floor }) => percent(floor / a.median)],
  ['LoRA ms', ({ b }) => milliseconds(b.median)],
  ['spread', ({ b }) => `±${percent(b.spread)}`],
  ['of floor', ({ b, loraFloor }) => percent(loraFloor / b.median)],
  ['Lily / LoRA', ({ ratio }) => ratio.toFixed(2)],
]
const widths = [18, 17, 9, 7, 9, 9, 7, 9, 12]

function printRow(cells: readonly string[]): void {
  console.log(cells.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(''))
}

const usage = `npm run bench -- [options]
  --shape M,d,r,E   instead of the usual shapes; may be given several times
  --dtype NAME      float32 (default), bfloat16, float16, or mixed: bfloat16 with parameters in float32
  --quick           less time for each shape
  --json            everything measured, as JSON
  --help`

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    dtype: { type: 'string', default: 'float32' },
    quick: { type: 'boolean', default: false },
    shape: { type: 'string', multiple: true, default: [] },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}
if (!Object.keys(dtypes).includes(options.dtype)) {
  throw new Error(`--dtype takes ${Object.keys(dtypes).join(', ')}, not ${options.dtype}`)
}
const dtype = options.dtype as DTypeName
const chosen = options.shape.length > 0 ? options.shape.map(parseShape) : shapes
const cpu = backends().find(({ name }) => name === 'cpu')
const device = cpu?.devices[0]
if (device === undefined) throw new Error(`the cpu backend is not available: ${cpu?.reason ?? 'unknown reason'}`)

const roofs = measureRoofs()
const overhead = measureOverhead()
const machine = {
  cpu: cpus()[0]?.model ?? 'unknown',
  simd: device.simd,
  threads: device.threads,
  node: process.version,
}
if (!options.json) {
  console.log(`${machine.cpu}, ${machine.simd}, ${machine.threads} threads, Node ${machine.node}`)
  console.log(
    `roofs: ${(roofs.flops / 1e9).toFixed(0)} GFLOP/s, ${(roofs.bfloat16Flops / 1e9).toFixed(0)} of bfloat16; ` +
      roofs.memory
        .map(({ bytes, read, update }) => {
          const rates = `${(read / 1e9).toFixed(0)} read, ${(update / 1e9).toFixed(0)} update`
          return `${bytes / 2 ** 20} MiB: ${rates}`
        })
        .join('; ') +
      ' GB/s',
  )
  console.log(
    `whole calls on (1, 8, 4, 2): forward ${overhead.forward.toFixed(1)} us, backward ${overhead.backward.toFixed(1)} us`,
  )
  console.log(
    `${dtype}; caches warm; y, dx and all gradients given and accumulated; median ± half the quartile distance`,
  )
  console.log(
    'floor: per phase the larger of FLOPs / roof and bytes / bandwidth of the level that holds the working set\n',
  )
  printRow(columns.map(([title]) => title))
}
const results: Result[] = []
for (const shape of chosen) {
  for (const result of measureShape(shape, dtypes[dtype], options.quick ? 0.5 : 3, roofs)) {
    results.push(result)
    if (!options.json) printRow(columns.map(([, cell]) => cell(result)))
  }
}
if (options.json) {
  const named = results.map(({ a: lily, b: lora, ...rest }) => ({ ...rest, lily, lora }))
  console.log(JSON.stringify({ machine, dtype, roofs, overheadMicroseconds: overhead, results: named }, null, 2))
}
