/** The report as text: a sentence, a header, a table and a legend. */
import type { Failure, Report } from '../../bench/harness/report.js'
import type { Method } from '../../bench/methods/methods.js'
import { shapeText } from '../../bench/workload/shapes.js'
import { giga, microseconds, milliseconds, NONE, percent, ratio, size } from '../../report/format.js'
import { renderTable, textTable } from '../../report/text-table.js'
import {
  equalParametersText,
  graphRatioToLora,
  machineText,
  marked,
  overheadOf,
  type Row,
  rowsOf,
  sectionsOf,
  sectionTitle,
  shareText,
  timeText,
} from './rows.js'

/** A column with `needs` is shown if the method was measured. */
const columns: readonly (readonly [title: string, cell: (row: Row) => string, needs?: Method])[] = [
  ['M, d, r, E', ({ shape }) => shapeText(shape)],
  ['', ({ pass }) => pass],
  ['Lily ms', ({ lily }) => milliseconds(lily.median)],
  ['±', ({ lily }) => marked(percent(lily.spread), lily, 'spread')],
  ['GB/s', ({ lily }) => giga(lily.bytes / lily.median)],
  ['of floor', ({ lily }) => shareText(lily, NONE)],
  ['LoRA ms', ({ lora }) => timeText(lora)],
  ['of floor', ({ lora }) => shareText(lora, NONE)],
  ['Lily/LoRA', ({ lily }) => ratio(lily.ratioToLora)],
  ['equal params', (row) => equalParametersText(row, NONE)],
  ['unfused', ({ by }) => ratio(by.get('lily-composed')?.ratioToFused), 'lily-composed'],
  ['layer ms', ({ by }) => timeText(by.get('layer')), 'layer'],
  ['+ Lily', (row) => percent(overheadOf(row, 'lily')), 'layer'],
  ['+ LoRA', (row) => percent(overheadOf(row, 'lora')), 'layer'],
  ['graph ms', ({ by }) => timeText(by.get('lily-graph')), 'lily-graph'],
  ['graph/LoRA', (row) => ratio(graphRatioToLora(row)), 'lily-graph'],
]

export function reportText(report: Report): string {
  return [wrapped(report.verdict), header(report), table(report), legend(report)].join('\n\n')
}

/** The width of the legend. */
const WIDTH = 118

/** A text in lines of at most WIDTH characters. */
function wrapped(text: string): string {
  const lines = ['']
  for (const word of text.split(' ')) {
    const line = lines[lines.length - 1]
    if (line === '') lines[lines.length - 1] = word
    else if (line.length + 1 + word.length <= WIDTH) lines[lines.length - 1] = `${line} ${word}`
    else lines.push(word)
  }
  return lines.join('\n')
}

/** One table, with a title line above the rows of each data type and routing. */
function table(report: Report): string {
  const all = rowsOf(report.results)
  const shown = columns.filter(([, , needs]) => needs === undefined || all.some(({ by }) => by.has(needs)))
  const result = textTable(
    shown.map(([title]) => title),
    shown.map((_, i) => (i < 2 ? 'left' : 'right')),
  )
  for (const [title, rows] of sectionsOf<Row | Failure>([...all, ...report.failures])) {
    result.push([{ content: `\n${title}`, colSpan: shown.length }])
    for (const row of rows) {
      // The reason is below the table, whose columns it would widen.
      result.push(
        'reason' in row
          ? shown.map((_, i) => [shapeText(row.shape), 'FAILED'][i] ?? '')
          : shown.map(([, cell]) => cell(row)),
      )
    }
  }
  return renderTable(result)
}

/** The machine, its roofs and the overhead of a call. */
function header({ machine, roofs, overheadSeconds }: Report): string {
  const lines = [`${machine.backend}: ${machine.device}, ${machineText(machine)}`]
  if (roofs !== null) {
    lines.push(
      `roofs: ${giga(roofs.flops)} GFLOP/s in float32, ${giga(roofs.bfloat16Flops)} GFLOP/s in bfloat16; ` +
        'GB/s read / updated in place: ' +
        // Every fourth size, a factor of four: the JSON file has all.
        roofs.memory
          .filter((_, i) => i % 4 === 0)
          .map(({ bytes, read, update }) => `${size(bytes)} ${giga(read)} / ${giga(update)}`)
          .join(', '),
    )
  }
  if (overheadSeconds !== null) {
    const { forward, backward } = overheadSeconds
    lines.push(
      `overhead of a call, at most: forward ${microseconds(forward)}, backward ${microseconds(backward)} ` +
        '(time of a whole call at 1, 8, 4, 2)',
    )
  }
  return lines.join('\n')
}

function legend({ machine, caches, model, notes, results, failures, complete }: Report): string {
  const lines = [
    `${caches} caches; preallocated y, dx and gradients, accumulated in place; medians, ± half the interquartile range`,
    'of floor: share of the speed that the roofs allow. The floor is the sum over phases of the larger of FLOPs / roof and',
    '  bytes / bandwidth of the fastest memory that can hold the arrays of the phase (docs/performance.md)',
    'Lily/LoRA: time relative to fused LoRA of the same rank, sampled in turn',
    `equal params: time relative to fused LoRA of rank r in brackets, at which a model of ${model.layers} layers has as many`,
    `  trainable parameters as with Lily (an A per ${model.strideA} layers, E matrices B, a router per layer)`,
    {
      cpu: 'unfused: time of the same steps as separate calls of this package, relative to the fused call',
      cuda: 'graph: the fused calls captured in a CUDA graph and replayed, which avoids the cost of enqueuing them',
      webgpu: 'unfused: time of the formula as TensorFlow.js operations on the same device, relative to the fused call',
    }[machine.backend],
    ...(results.some(({ method }) => method === 'layer')
      ? ['layer: the frozen linear layer alone, packed; + Lily, + LoRA: what the adapter adds to its time, in one call']
      : []),
    ...notes,
    ...failures.map((failure) => `FAILED: ${shapeText(failure.shape)}, ${sectionTitle(failure)}: ${failure.reason}`),
    ...(complete ? [] : ['interrupted: the remaining cases were not measured']),
  ]
  return lines.join('\n')
}
