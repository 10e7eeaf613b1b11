/** What the comparison has measured, and the table that it prints. */
import { deviation, mean } from 'd3-array'
import type { Analysis, LoraAnalysis } from 'lily-kernels'
import { renderTable, textTable } from '../../cli/report/text-table.js'
import type { Method, Part, Setup } from './train.js'

/** One training run. Accuracies are shares. */
export interface Run extends Setup {
  /** Trainable parameters of the adapter, without those of the head. */
  readonly parameters: number
  /** After each step. */
  readonly losses: readonly number[]
  /** On a part of the held-out sentences, during training. */
  readonly curve: readonly { readonly step: number; readonly accuracy: number }[]
  readonly heldOut: number
  readonly otherDomain: number
  /** Of training, without evaluation. */
  readonly seconds: Readonly<Record<Part, number>>
}

/** A trained classifier that was saved and loaded again. */
export interface Reload {
  readonly method: Method
  readonly heldOut: number
  readonly heldOutBefore: number
  /** Whether all logits are equal to the bit. */
  readonly isEqual: boolean
}

export interface Results {
  /** Numbers of sentences. */
  readonly sentences: Readonly<Record<'training' | 'heldOut' | 'curve' | 'otherDomain', number>>
  readonly epochs: number
  /** The rank of LoRA whose number of parameters all seeds have. */
  readonly loraRank: number
  readonly runs: Run[]
  readonly reloads: Reload[]
  /** Of the adapters of the first seed. */
  readonly analyses: { lily?: Analysis; lora?: LoraAnalysis }
  seconds: number
  /** False after an interrupt. */
  isComplete: boolean
}

export const methodNames: Readonly<Record<Method, string>> = { head: 'head only', lora: 'LoRA', lily: 'Lily' }

/** The runs of one method and one size: the seeds. */
export interface Group {
  readonly method: Method
  readonly loraRank: number
  readonly parameters: number
  readonly runs: readonly Run[]
}

/** The groups by method, then by size. */
export function groupsOf({ runs }: Results): Group[] {
  const groups = new Map<string, Run[]>()
  for (const run of runs) {
    const key = `${run.method} ${run.loraRank}`
    groups.set(key, [...(groups.get(key) ?? []), run])
  }
  const methods: Method[] = ['head', 'lora', 'lily']
  return [...groups.values()]
    .map((seeds) => ({ ...seeds[0], runs: seeds }))
    .sort((a, b) => a.parameters - b.parameters || methods.indexOf(a.method) - methods.indexOf(b.method))
}

/** Mean and standard deviation, in percent: '88.4 ± 0.5'. A single value has no spread. */
export function percentText(shares: readonly number[], digits = 1): string {
  const spread = deviation(shares)
  const text = (100 * (mean(shares) ?? NaN)).toFixed(digits)
  return spread === undefined ? text : `${text} ± ${(100 * spread).toFixed(digits)}`
}

/** Lily minus LoRA, in points: the runs of one seed have the same sentences. */
export function differencesOf({ runs, loraRank }: Results, metric: 'heldOut' | 'otherDomain'): number[] {
  const find = (method: Method, seed: number) =>
    runs.find((run) => run.method === method && run.seed === seed && run.loraRank === loraRank)
  return [...new Set(runs.map(({ seed }) => seed))].flatMap((seed) => {
    const [lily, lora] = [find('lily', seed), find('lora', seed)]
    return lily === undefined || lora === undefined ? [] : [lily[metric] - lora[metric]]
  })
}

/** Seconds of training per epoch, mean over the runs. */
const secondsPerEpoch = ({ runs }: Group, { epochs }: Results): number =>
  (mean(runs, ({ seconds }) => Object.values(seconds).reduce((sum, part) => sum + part, 0)) ?? NaN) / epochs

/** The rows of the table, which the report has too. */
export function tableRows(results: Results): string[][] {
  return groupsOf(results).map((group) => {
    const { method, parameters, runs } = group
    return [
      methodNames[method],
      parameters.toLocaleString('en'),
      String(runs.length),
      percentText(runs.map(({ heldOut }) => heldOut)),
      percentText(runs.map(({ otherDomain }) => otherDomain)),
      secondsPerEpoch(group, results).toFixed(1),
    ]
  })
}

export const tableHead = ['method', 'parameters', 'seeds', 'held out, %', 'imdb, %', 's / epoch']

export function resultsText(results: Results): string {
  const table = textTable(tableHead, ['left', ...tableHead.slice(1).map(() => 'right' as const)])
  table.push(...tableRows(results))
  return [
    `${renderTable(table)}\n`,
    'Accuracies: mean and standard deviation over the seeds. Parameters: without the 513 of the head.',
    ...differenceLines(results),
    ...results.reloads.map(reloadText),
  ].join('\n')
}

export function differenceLines(results: Results): string[] {
  const [heldOut, otherDomain] = [differencesOf(results, 'heldOut'), differencesOf(results, 'otherDomain')]
  if (heldOut.length === 0) return []
  return [
    `Lily minus LoRA, seed by seed: ${percentText(heldOut)} points held out, ${percentText(otherDomain)} on imdb.`,
  ]
}

export function reloadText({ method, heldOut, isEqual }: Reload): string {
  const logits = isEqual ? 'all logits equal to the bit' : 'LOGITS DIFFER'
  return `${methodNames[method]}, saved and loaded again: ${(100 * heldOut).toFixed(1)} % held out, ${logits}.`
}
