/** The results of `bench:step`: the report that is written as JSON, and its tables in Markdown. */
import type { Missing } from '../peers/protocol.js'
import type { Comparison, Measurement } from '../peers/report.js'
import type { StepRow } from './measure.js'
import type { AdapterName, EncoderName } from './problem.js'
import { type Part, parts, partTitles } from './protocol.js'

export interface StepReport extends Comparison {
  readonly rows: readonly StepRow[]
}

const encoderTitles: Readonly<Record<EncoderName, string>> = {
  blocks: '4 blocks of width 256, 8 sentences of 128 tokens',
  finetune: 'the encoder of examples/finetune, 32 sentences of 3 to 32 tokens',
}
const adapterTitles: Readonly<Record<AdapterName, string>> = { lora: 'LoRA', lily: 'Lily' }

export const rowTitle = ({ encoder, adapter }: StepRow): string =>
  `${adapterTitles[adapter]}: ${encoderTitles[encoder]}`

export const milliseconds = (seconds: number | undefined): string =>
  seconds === undefined ? '-' : (seconds * 1e3).toFixed(1)

/** The parts of a contender, in their order. One that it does not have is undefined. */
export const partsOf = ({ parts: found }: StepRow['results'][number]): (readonly [Part, number | undefined])[] =>
  parts.map((part) => [part, found[part]])

function table(row: StepRow): string[] {
  const heads = ['contender', 'ms per step', 'relative', '±', ...parts.map((part) => partTitles[part])]
  const lines = row.results.map((result) => [
    result.contender,
    milliseconds(result.median),
    result.ratioToOurs.toFixed(2),
    `${Math.round(result.spread * 100)} %`,
    ...partsOf(result).map(([, seconds]) => milliseconds(seconds)),
  ])
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  const [first, last] = [row.losses[0], row.losses.at(-1)!].map((loss) => loss.toPrecision(4))
  return [
    '',
    `### ${rowTitle(row)}`,
    '',
    ...[heads, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`),
    '',
    `The losses of the first ${row.losses.length} steps, ${first} to ${last}, differ by ` +
      `${row.lossDifference.toExponential(0)} at most, relative.`,
  ]
}

/** What the numbers are. */
export const explanations: readonly string[] = [
  'A step is forward, backward and AdamW on one batch, in float32. Medians; ± is half the interquartile range. All contenders ' +
    'ran in turn, from the same initial values, with the same number of threads.',
  'The parts are milliseconds per step of steps of their own, which measuring them makes a little slower. Linear layers, with ' +
    'the adapters on them, and attention are all that happens in them, forward and backward. Other operations of ' +
    'TensorFlow.js are its kernels, and the rest is its tape and JavaScript; other operations of PyTorch include its tape.',
  "TensorFlow.js computes PEFT's formulas in its own operations on its wasm backend; PyTorch uses " +
    'scaled_dot_product_attention and layer_norm. PEFT has no routing by sentence: with examples/finetune, PyTorch computes ' +
    'the formula of this package.',
]

export function header({ machine, versions, command, measuredAt, version }: Measurement): string[] {
  const list = Object.entries(versions).map(([name, value]) => `${name} ${value}`)
  const threads = `${machine.threads} thread${machine.threads === 1 ? '' : 's'}`
  return [
    `${machine.device}, ${machine.instructionSet}, ${threads}`,
    `\`${command}\`, lily-kernels ${version}, ${measuredAt.slice(0, 10)}, ${machine.platform}. ${list.join(', ')}.`,
  ]
}

export const INTERRUPTED = 'Interrupted: the remaining cases were not measured.'

export const missingLine = ({ name, reason, install }: Missing): string =>
  `${name}: ${reason}${install === '' ? '' : `; to install it: ${install}`}`

export function stepMarkdown(report: StepReport): string {
  const { complete, missing, rows } = report
  const [title, facts] = header(report)
  return `${[
    `## A training step on ${title}`,
    '',
    facts,
    ...explanations.flatMap((text) => ['', text]),
    ...(complete ? [] : ['', `**${INTERRUPTED}**`]),
    ...rows.flatMap(table),
    ...(missing.length === 0 ? [] : ['', 'Not measured:', '']),
    ...missing.map((each) => `- ${missingLine(each)}`),
  ].join('\n')}\n`
}
