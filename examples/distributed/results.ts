/** What the jobs have measured, and the text that is printed. */
import { renderTable, textTable } from '../../report/text-table.js'

/** One job of n ranks. Times and tokens are without the first step. */
export interface Job {
  readonly ranks: number
  /** Null without mpirun. */
  readonly library: string | null
  /** Of each rank. */
  readonly threads: number
  /** Of the whole batch, after each step. */
  readonly losses: readonly number[]
  /** Of all ranks, without padding. */
  readonly tokens: number
  readonly seconds: number
  /** Seconds, mean over the ranks: until all ranks have their gradients, and until they are averaged. */
  readonly waiting: number
  readonly averaging: number
  /** Share of the held-out sentences whose label the classifier gives. */
  readonly heldOut: number
  /** Whether the trained values of all ranks are equal to the bit. */
  readonly isEqual: boolean
}

/** What rank 0 prints with --json: a line for each step, and the job. */
export type Line = { readonly step: number; readonly steps: number; readonly loss: number } | { readonly job: Job }

export interface Results {
  readonly sentences: number
  readonly epochs: number
  /** Processor, instruction set and threads that it has for all ranks; Node.js. */
  readonly machine: string
  readonly jobs: Job[]
}

export const ranksText = ({ ranks }: Job): string => `${ranks} ${ranks === 1 ? 'rank' : 'ranks'}`

export const tokensPerSecond = ({ tokens, seconds }: Job): string => Math.round(tokens / seconds).toLocaleString('en')

export const stepMilliseconds = ({ seconds, losses }: Job): number => (1000 * seconds) / (losses.length - 1)

/** Of the time of a step, in percent. */
export const shareText = (part: number, { seconds }: Job): string => `${((100 * part) / seconds).toFixed(1)} %`

const percentText = (share: number): string => (100 * share).toFixed(1)

/** Where the losses of two jobs differ most: the first job and each other. */
export function largestDifference({ jobs: [first, ...others] }: Results): { difference: number; step: number } {
  const differences = others.flatMap(({ losses }) =>
    losses.map((loss, i) => ({ difference: Math.abs(loss - first.losses[i]), step: i + 1 })),
  )
  return differences.reduce((most, each) => (each.difference > most.difference ? each : most), {
    difference: 0,
    step: 1,
  })
}

/** '1, 2 and 4' */
export const listText = (items: readonly (number | string)[]): string =>
  items.length === 1 ? String(items[0]) : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`

export function differenceText(results: Results): string {
  const { difference, step } = largestDifference(results)
  const ranks = listText(results.jobs.map((job) => job.ranks))
  return `The losses of ${ranks} ranks differ by at most ${difference.toExponential(1)} (step ${step}).`
}

/** Whether each rank of each job has the same trained values. */
export const equalText = ({ jobs }: Results): string =>
  jobs.every(({ isEqual }) => isEqual)
    ? 'Within each job the trained values of all ranks are equal to the bit.'
    : `THE TRAINED VALUES OF RANKS DIFFER: ${listText(jobs.filter(({ isEqual }) => !isEqual).map(ranksText))}.`

export const tableHead = [
  'ranks',
  'threads each',
  'tokens / s',
  'step, ms',
  'averaging',
  'waiting',
  'last loss',
  'held out, %',
]

export const tableRow = (job: Job): string[] => [
  String(job.ranks),
  String(job.threads),
  tokensPerSecond(job),
  stepMilliseconds(job).toFixed(1),
  shareText(job.averaging, job),
  shareText(job.waiting, job),
  job.losses.at(-1)!.toFixed(6),
  percentText(job.heldOut),
]

function tableText(jobs: readonly Job[]): string {
  const table = textTable(
    tableHead,
    tableHead.map(() => 'right'),
  )
  table.push(...jobs.map(tableRow))
  return renderTable(table)
}

export const resultsText = (results: Results): string =>
  [
    `${tableText(results.jobs)}\n`,
    'Averaging and waiting (until all ranks have their gradients): shares of the time of a step.',
    ...(results.jobs.length > 1 ? [differenceText(results)] : []),
    equalText(results),
  ].join('\n')

export const jobText = (job: Job): string =>
  `${tableText([job])}\n\n${job.library ?? 'without mpirun: one process'}; values of all ranks ${job.isEqual ? 'equal to the bit' : 'DIFFER'}`
