/** The results of `bench:distributed`: the report that is written as JSON, and its table in Markdown. */
import { doubtsOf, notesOfDoubts } from '../harness/doubts.js'
import type { Timing } from '../harness/sampling.js'
import type { Missing } from '../peers/protocol.js'
import type { Measurement } from '../peers/report.js'
import { header, INTERRUPTED, missingLine } from '../step/report.js'
import { type Way, ways } from './protocol.js'

export interface DistributedResult extends Timing {
  readonly way: Way
  /** Median of the ratios to MPI_Allreduce, in samples of one round. */
  readonly ratioToC: number
}

export interface DistributedRow {
  /** As the job of this package names it, with its version. */
  readonly library: string
  readonly bytes: number
  readonly results: readonly DistributedResult[]
}

export interface DistributedReport extends Measurement {
  readonly ranks: number
  readonly missing: readonly Missing[]
  readonly rows: readonly DistributedRow[]
}

const titles: Readonly<Record<Way, string>> = {
  MPI_Allreduce: 'MPI_Allreduce in C, ms',
  array: 'one array, ms',
  model: 'a model, ms',
}

export function distributedTable(rows: readonly DistributedRow[]): string[] {
  const heads = ['library', 'MiB', ...ways.map((way) => titles[way]), 'array / C', 'model / C']
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  const lines = rows.map(({ library, bytes, results }) => {
    const [c, array, model] = ways.map((way) => results.find((each) => each.way === way)!)
    const times = [c, array, model].map((each) => {
      const doubt = doubtsOf(each, null).length > 0 ? ' !' : ''
      return `${(each.median * 1e3).toFixed(2)} ± ${Math.round(each.spread * 100)} %${doubt}`
    })
    return [library, String(bytes / 2 ** 20), ...times, array.ratioToC.toFixed(2), model.ratioToC.toFixed(2)]
  })
  return [heads, rule, ...lines].map((line) => `| ${line.join(' | ')} |`)
}

export function distributedMarkdown(report: DistributedReport): string {
  const { complete, missing, ranks, rows } = report
  const [title, facts] = header(report)
  const doubts = rows.flatMap(({ results }) => results.map((each) => ({ doubts: doubtsOf(each, null) })))
  return `${[
    `## Averages of gradients, ${ranks} ranks on ${title} each`,
    '',
    facts,
    '',
    'Milliseconds of an average of float32 gradients in place, on one machine. MPI_Allreduce (MPI_SUM) is a program in C, which ' +
      'then multiplies by 1/n; the others are `averageGradients` of lily-kernels/mpi, with one parameter and with the ' +
      'parameters of a LoraModel, 64 KiB each. All have the same bits. Medians, all in turn; ± is half the interquartile ' +
      'range, and each ratio is the median over the rounds.',
    '',
    ...(complete ? [] : [`**${INTERRUPTED}**`, '']),
    ...distributedTable(rows),
    ...notesOfDoubts(doubts).flatMap((note) => ['', note]),
    ...(missing.length === 0 ? [] : ['', 'Not measured:', '']),
    ...missing.map((each) => `- ${missingLine(each)}`),
  ].join('\n')}\n`
}
