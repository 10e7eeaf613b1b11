/** The results of `bench:onnx`: the report that is written as JSON, and its table in Markdown. */
import { doubtsOf, notesOfDoubts } from '../harness/doubts.js'
import type { Timing } from '../harness/sampling.js'
import type { Measurement } from '../peers/report.js'
import { header, INTERRUPTED } from '../step/report.js'
import { type AdapterName, layers, type Sizes } from './block.js'
import { type Way, ways } from './ways.js'

export interface OnnxResult extends Timing {
  readonly way: Way
  /** Median of the ratios to the base, in samples of one round. */
  readonly ratioToBase: number
}

export interface OnnxRow {
  readonly adapter: AdapterName
  /** Tokens of one sequence, in one call. */
  readonly tokens: number
  /** The largest relative difference of an output from this package's. */
  readonly difference: number
  readonly results: readonly OnnxResult[]
}

export interface OnnxReport extends Measurement {
  readonly sizes: Sizes
  readonly rows: readonly OnnxRow[]
}

const titles: Readonly<Record<AdapterName, string>> = {
  lora: 'LoRA',
  'lily-frozen': 'Lily, frozen',
  'lily-sequence': 'Lily, sequence',
  'lily-token': 'Lily, token',
}

/** Tokens per second, marked if they are in doubt, and what share of the base's rate the injected model has. */
export function onnxTable(rows: readonly OnnxRow[]): string[] {
  const heads = ['adapter', 'tokens per call', ...ways, 'injected / base']
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  const lines = rows.map(({ adapter, tokens, results }) => {
    const find = (way: Way) => results.find((each) => each.way === way)
    const injected = find('injected')
    return [
      titles[adapter],
      String(tokens),
      ...ways.map((way) => rate(tokens, find(way))),
      injected === undefined ? '-' : `${((1 / injected.ratioToBase) * 100).toFixed(0)} %`,
    ]
  })
  return [heads, rule, ...lines].map((line) => `| ${line.join(' | ')} |`)
}

/** What the table shows: a sentence for each number of tokens, of the results that are not in doubt. */
export function onnxSummary(rows: readonly OnnxRow[]): string[] {
  const counts = [...new Set(rows.map(({ tokens }) => tokens))]
  return counts.flatMap((tokens) => {
    const results = rows.filter((row) => row.tokens === tokens).map((row) => row.results.filter(isCertain))
    const range = (of: Way, to: Way, format: (value: number) => string): string[] => {
      const shares = results.flatMap((all) => {
        const [mine, theirs] = [of, to].map((way) => all.find((each) => each.way === way))
        return mine === undefined || theirs === undefined ? [] : [theirs.ratioToBase / mine.ratioToBase]
      })
      return shares.length === 0 ? [] : [`${format(Math.min(...shares))} to ${format(Math.max(...shares))}`]
    }
    const percent = (value: number) => (value * 100).toFixed(0)
    const parts = [
      ...range('injected', 'base', percent).map((share) => `injected models compute ${share} % of the base's`),
      ...range('injected', 'baked', percent).map((share) => `injected models compute ${share} % of the baked models'`),
      ...range('lily-kernels', 'injected', (value) => value.toFixed(2)).map(
        (factor) => `this package computes ${factor} times as many as injected models`,
      ),
    ]
    const call = `${tokens} token${tokens === 1 ? '' : 's'} per call`
    return parts.length === 0 ? [] : [`Tokens per second with ${call}: ${parts.join(', ')}.`]
  })
}

const isCertain = (result: OnnxResult): boolean => doubtsOf(result, null).length === 0

function rate(tokens: number, result: OnnxResult | undefined): string {
  if (result === undefined) return '-'
  const value = tokens / result.median
  return value.toFixed(value < 100 ? 1 : 0) + (isCertain(result) ? '' : ' !')
}

export function onnxMarkdown(report: OnnxReport): string {
  const { complete, rows, sizes } = report
  const [title, facts] = header(report)
  const { d, rank, experts } = sizes
  const notes = notesOfDoubts(rows.flatMap(({ results }) => results.map((each) => ({ doubts: doubtsOf(each, null) }))))
  return `${[
    `## In ONNX Runtime on ${title}`,
    '',
    facts,
    '',
    `Tokens per second of ${layers.length} linear layers of ${d} x ${d} in float32, with adapters of rank ${rank}; Lily has ${experts} ` +
      'experts. Medians, all ways in turn; the share is the median over the rounds.',
    '',
    ...(complete ? [] : [`**${INTERRUPTED}**`, '']),
    ...onnxTable(rows),
    ...onnxSummary(rows).flatMap((sentence) => ['', sentence]),
    ...notes.flatMap((note) => ['', note]),
  ].join('\n')}\n`
}
