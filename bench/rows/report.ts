/** The results of `bench:rows`: the report that is written as JSON, and its tables in Markdown. */
import type { Timing } from '../harness/sampling.js'
import type { Comparison } from '../peers/report.js'
import { header, INTERRUPTED, missingLine } from '../step/report.js'
import type { AdapterName, Method, Problem } from './protocol.js'

export interface RowsResult extends Timing {
  readonly contender: string
  readonly method: Method
  /** Median of the ratios to our call with the adapters of the rows, in samples of one round. */
  readonly ratioToCall: number
}

export interface RowsReport extends Comparison {
  readonly rows: readonly (Problem & { readonly results: readonly RowsResult[] })[]
}

type Row = RowsReport['rows'][number]

const titles: Readonly<Record<AdapterName, string>> = {
  lora: 'LoRA',
  lily: 'Lily, batch',
  'lily-token': 'Lily, token',
}

/** The columns by contender and method, in microseconds. */
const columns: readonly (readonly [title: string, contender: string, method: Method])[] = [
  ['one adapter', 'lily-kernels', 'one'],
  ['one call', 'lily-kernels', 'call'],
  ['loop of calls', 'lily-kernels', 'loop'],
  ['one adapter, before', 'before', 'one'],
  ['loop of calls, before', 'before', 'loop'],
  ['PyTorch loop', 'PyTorch', 'loop'],
  ['PyTorch gather', 'PyTorch', 'gather'],
]

function table(
  title: string,
  labels: readonly string[],
  rows: readonly Row[],
  cells: (row: Row) => string[],
): string[] {
  const used = columns.filter(([, contender, method]) =>
    rows.some(({ results }) => results.some((each) => each.contender === contender && each.method === method)),
  )
  const heads = [...labels, ...used.map(([name], i) => (i === 0 ? `${name}, µs` : name))]
  const lines = rows.map((row) => [
    ...cells(row),
    ...used.map(([, contender, method]) => {
      const found = row.results.find((each) => each.contender === contender && each.method === method)
      if (found === undefined) return '-'
      const isCall = contender === 'lily-kernels' && method === 'call'
      return (found.median * 1e6).toFixed(1) + (isCall ? '' : ` (${found.ratioToCall.toFixed(2)})`)
    }),
  ])
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  return ['', `### ${title}`, '', ...[heads, rule, ...lines].map((line) => `| ${line.join(' | ')} |`)]
}

export function rowsMarkdown(report: RowsReport): string {
  const { complete, missing, rows } = report
  const [title, facts] = header(report)
  const isFew = ({ adapters, sequences, length }: Row) => adapters === 1 && length === 1 && sequences !== 32
  const many = rows.filter((row) => !isFew(row))
  const few = rows.filter(isFew)
  return `${[
    `## Adapters per row on ${title}`,
    '',
    facts,
    '',
    'Forward of adapters of rank 16 on a layer of 4096 x 4096 in float32, which adds to y; Lily has 4 experts. Medians in ' +
      'microseconds, all contenders in turn; in brackets the median ratio to one call. One adapter has all rows. The loop ' +
      'gathers and scatters rows that do not follow each other.',
    ...(complete ? [] : ['', `**${INTERRUPTED}**`]),
    ...table('Adapters per row', ['adapter', 'rows', 'adapters', 'order'], many, (row) => [
      titles[row.adapter],
      `${row.sequences} x ${row.length}`,
      String(row.adapters),
      row.order,
    ]),
    ...table('Few tokens', ['adapter', 'tokens'], few, (row) => [titles[row.adapter], String(row.sequences)]),
    ...(missing.length === 0 ? [] : ['', 'Not measured:', '']),
    ...missing.map((each) => `- ${missingLine(each)}`),
  ].join('\n')}\n`
}
