/**
 * The table of scripts/gpu-verify.js: for each shape, data type and pass, the time that the backend's model predicts, and
 * the measured times of Lily, LoRA and PyTorch.
 *
 *     tsx bench/peers/gpu-table.ts bench.json [pytorch.json]
 *
 * bench.json is what `lily-kernels bench --backend cuda --json` writes, pytorch.json what pytorch.py writes.
 */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Gpu, gpuOf } from '../counters/gpus.js'
import { planCalls, predictedSeconds } from '../counters/plan.js'
import type { Report, Result } from '../harness/report.js'
import type { Method, Pass } from '../methods/methods.js'
import type { Case } from '../workload/cases.js'
import { shapeText } from '../workload/shapes.js'

/** What bench/peers/pytorch.py measured. */
export interface PytorchReport {
  readonly pytorch: string
  readonly milliseconds: readonly PytorchResult[]
}

type PytorchResult = Readonly<Record<Pass, { readonly median: number }>> & {
  readonly method: 'lily' | 'lora' | 'products'
  readonly compiled: boolean
  readonly shape: readonly number[]
  readonly dtype: string
}

interface Row {
  readonly lily: Result
  readonly lora: Result | undefined
  readonly graph: Result | undefined
  /** Seconds; undefined if the model does not know the GPU. */
  readonly predicted: number | undefined
  /** Seconds of a method of PyTorch. */
  readonly pytorch: (method: PytorchResult['method'], compiled: boolean) => number | undefined
}

function predict({ shape, dtype, pass }: Result, gpu: Gpu): number {
  const directions = pass === 'forward' ? (['forward'] as const) : (['forward', 'backward'] as const)
  const plans = planCalls(directions.map((direction) => ({ gpu, shape, dtype, method: 'batch', direction })))
  return plans.reduce((sum, plan) => sum + predictedSeconds(plan), 0)
}

function rowsOf(report: Report, pytorch: PytorchReport | undefined): Row[] {
  const gpu = gpuOf(report.machine.device)
  const keyOf = ({ shape, dtype, pass }: Case & { pass: Pass }): string => `${shapeText(shape)} ${dtype} ${pass}`
  const found = new Map(report.results.map((result) => [`${keyOf(result)} ${result.method}`, result]))
  const of = (result: Result, method: Method) => found.get(`${keyOf(result)} ${method}`)
  return report.results
    .filter(({ method, routing }) => method === 'lily' && routing === 'batch')
    .map((lily) => ({
      lily,
      lora: of(lily, 'lora'),
      graph: of(lily, 'lily-graph'),
      predicted: gpu === undefined ? undefined : predict(lily, gpu),
      pytorch: (method, compiled) => {
        const { tokens, d, rank, experts } = lily.shape
        const same = pytorch?.milliseconds.find(
          (each) =>
            each.method === method &&
            each.compiled === compiled &&
            each.dtype === lily.dtype &&
            String(each.shape) === String([tokens, d, rank, experts]),
        )
        return same === undefined ? undefined : same[lily.pass].median / 1e3
      },
    }))
}

const micro = (seconds: number | undefined): string => (seconds === undefined ? '-' : (1e6 * seconds).toFixed(1))
const ratio = (a: number | undefined, b: number | undefined): string =>
  a === undefined || b === undefined ? '-' : (a / b).toFixed(2)

const columns: readonly [title: string, cell: (row: Row) => string][] = [
  ['M, d, r, E', ({ lily }) => shapeText(lily.shape)],
  ['', ({ lily }) => lily.dtype],
  ['', ({ lily }) => lily.pass],
  ['predicted', ({ predicted }) => micro(predicted)],
  ['Lily', ({ lily }) => micro(lily.median)],
  ['/ predicted', ({ lily, predicted }) => ratio(lily.median, predicted)],
  ['of floor', ({ lily }) => (lily.floor === null ? '-' : `${((100 * lily.floor) / lily.median).toFixed(0)}%`)],
  ['in a graph', ({ graph }) => micro(graph?.median)],
  ['LoRA', ({ lora }) => micro(lora?.median)],
  ['Lily / LoRA', ({ lily, lora }) => (lora === undefined ? '-' : lily.ratioToLora.toFixed(2))],
  ['eager', ({ pytorch }) => micro(pytorch('lily', false))],
  ['/ Lily', ({ pytorch, lily }) => ratio(pytorch('lily', false), lily.median)],
  ['compiled', ({ pytorch }) => micro(pytorch('lily', true))],
  ['/ Lily', ({ pytorch, lily }) => ratio(pytorch('lily', true), lily.median)],
  ['LoRA eager', ({ pytorch }) => micro(pytorch('lora', false))],
  ['compiled', ({ pytorch }) => micro(pytorch('lora', true))],
  ['products', ({ pytorch }) => micro(pytorch('products', false))],
]

/** The first columns that are not numbers. */
const TEXTS = 3

export function gpuTable(report: Report, pytorch?: PytorchReport): string {
  const { machine, roofs } = report
  const rows = rowsOf(report, pytorch)
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))]
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i].length)))
  const lines = cells.map((line) =>
    line
      .map((text, i) => (i < TEXTS ? text.padEnd(widths[i]) : text.padStart(widths[i])))
      .join('  ')
      .trimEnd(),
  )
  const isPredicted = rows.some(({ predicted }) => predicted !== undefined)
  const legend = [
    `Microseconds on ${machine.device} (${machine.detail}), medians. eager, compiled and products are PyTorch ${pytorch?.pytorch ?? '(not measured)'}.`,
    isPredicted
      ? 'predicted: by the long model of time (bench/counters/model), from the data sheet of the GPU'
      : 'predicted: the data sheet of this GPU is not in bench/counters/gpus.ts',
    roofs === null
      ? 'of floor: no roof was measured'
      : `of floor: the roof of bfloat16 products is ${(roofs.bfloat16Flops / 1e12).toFixed(1)} TFLOP/s, ${roofs.bfloat16Source}`,
  ]
  return [...lines, '', ...legend].join('\n')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [bench, pytorch] = process.argv.slice(2)
  const [report] = JSON.parse(readFileSync(bench, 'utf8')) as Report[]
  const measured = pytorch !== undefined && existsSync(pytorch)
  console.log(gpuTable(report, measured ? (JSON.parse(readFileSync(pytorch, 'utf8')) as PytorchReport) : undefined))
}
