/** What the comparison has measured, and the table that it prints. */
import { deviation, mean } from 'd3-array'
import type { Analysis, LoraAnalysis, ModelRouting } from 'lily-kernels'
import { renderTable, textTable } from '../../report/text-table.js'
import type { Method, Part, Setup, Variant } from './train.js'

/** One training run. Accuracies are shares. */
export interface Run extends Setup {
  /** Trainable parameters of the adapter, without those of the head. */
  readonly parameters: number
  /** After each step. */
  readonly losses: readonly number[]
  /** On a part of the held-out sentences, during training. */
  readonly curve: readonly { readonly step: number; readonly accuracy: number }[]
  /** On the sentences that it was trained on; null if the run is for a comparison. */
  readonly training: number | null
  readonly heldOut: number
  readonly otherDomain: number
  /** Of training, without evaluation. */
  readonly seconds: Readonly<Record<Part, number>>
}

/** A trained classifier that was saved and loaded again. */
export interface Reload extends Variant {
  readonly heldOut: number
  readonly heldOutBefore: number
  /** Whether all logits are equal to the bit. */
  readonly isEqual: boolean
}

export interface Results {
  /** Whether this is a check that everything works, on too few sentences for a comparison. */
  readonly isQuick: boolean
  /** Numbers of sentences. */
  readonly sentences: Readonly<Record<'training' | 'heldOut' | 'curve' | 'otherDomain', number>>
  readonly epochs: number
  /** Those of Lily. The first one has the other sizes, too. */
  readonly routings: readonly ModelRouting[]
  readonly dropout: number
  /** The rank of LoRA whose number of parameters all seeds have. */
  readonly loraRank: number
  readonly runs: Run[]
  readonly reloads: Reload[]
  /** Of the adapters of the first seed. */
  readonly analyses: { readonly lily: Partial<Record<ModelRouting, Analysis>>; lora?: LoraAnalysis }
  seconds: number
  /** False after an interrupt. */
  isComplete: boolean
}

const methodNames: Readonly<Record<Method, string>> = { head: 'head only', lora: 'LoRA', lily: 'Lily' }

/** 'Lily (sequence)' */
export const nameOf = ({ method, routing }: Variant): string =>
  routing === undefined ? methodNames[method] : `${methodNames[method]} (${routing})`

/** All that are compared. */
export const variantsOf = ({ routings }: Results): Variant[] => [
  { method: 'head' },
  { method: 'lora' },
  ...routings.map((routing): Variant => ({ method: 'lily', routing })),
]

/** The runs of one variant and one size: the seeds. */
export interface Group extends Variant {
  readonly loraRank: number
  readonly parameters: number
  readonly runs: readonly Run[]
}

/** The groups by size, then in the order of the variants. */
export function groupsOf(results: Results): Group[] {
  const groups = new Map<string, Run[]>()
  for (const run of results.runs) {
    const key = `${nameOf(run)} ${run.loraRank}`
    groups.set(key, [...(groups.get(key) ?? []), run])
  }
  const names = variantsOf(results).map(nameOf)
  return [...groups.values()]
    .map((seeds) => ({ ...seeds[0], runs: seeds }))
    .sort((a, b) => a.parameters - b.parameters || names.indexOf(nameOf(a)) - names.indexOf(nameOf(b)))
}

/** Mean and standard deviation, in percent: '88.4 ± 0.5'. A single value has no spread. */
export function percentText(shares: readonly number[], digits = 1): string {
  const spread = deviation(shares)
  const text = (100 * (mean(shares) ?? NaN)).toFixed(digits)
  return spread === undefined ? text : `${text} ± ${(100 * spread).toFixed(digits)}`
}

/** Lily minus LoRA, in points: the runs of one seed have the same sentences. */
export function differencesOf(
  { runs, loraRank }: Results,
  routing: ModelRouting,
  metric: 'heldOut' | 'otherDomain',
): number[] {
  const find = (variant: Variant, seed: number) =>
    runs.find((run) => nameOf(run) === nameOf(variant) && run.seed === seed && run.loraRank === loraRank)
  return [...new Set(runs.map(({ seed }) => seed))].flatMap((seed) => {
    const [lily, lora] = [find({ method: 'lily', routing }, seed), find({ method: 'lora' }, seed)]
    return lily === undefined || lora === undefined ? [] : [lily[metric] - lora[metric]]
  })
}

/** Seconds of training per epoch, mean over the runs. */
const secondsPerEpoch = ({ runs }: Group, { epochs }: Results): number =>
  (mean(runs, ({ seconds }) => Object.values(seconds).reduce((sum, part) => sum + part, 0)) ?? NaN) / epochs

/** A column of the table of groups. */
interface Column {
  readonly title: string
  readonly text: (group: Group, results: Results) => string
}

const ACCURACIES: readonly Column[] = [
  { title: 'held out, %', text: ({ runs }) => percentText(runs.map(({ heldOut }) => heldOut)) },
  { title: 'imdb, %', text: ({ runs }) => percentText(runs.map(({ otherDomain }) => otherDomain)) },
]
/** What the runs have learnt: the loss of the first and of the last batch, and the accuracy on the training sentences. */
const LEARNT: readonly Column[] = [
  { title: 'first loss', text: ({ runs }) => meanText(runs.map(({ losses }) => losses[0])) },
  { title: 'last loss', text: ({ runs }) => meanText(runs.map(({ losses }) => losses.at(-1)!)) },
  { title: 'training, %', text: ({ runs }) => percentText(runs.map(({ training }) => training!)) },
]

const meanText = (values: readonly number[]): string => (mean(values) ?? NaN).toFixed(3)

/** The columns of the table, which the report has too. */
const columnsOf = ({ isQuick }: Results): Column[] => [
  { title: 'method', text: nameOf },
  { title: 'parameters', text: ({ parameters }) => parameters.toLocaleString('en') },
  { title: 'seeds', text: ({ runs }) => String(runs.length) },
  ...(isQuick ? LEARNT : ACCURACIES),
  { title: 's / epoch', text: (group, results) => secondsPerEpoch(group, results).toFixed(1) },
]

export const tableHead = (results: Results): string[] => columnsOf(results).map(({ title }) => title)

export const tableRows = (results: Results): string[][] =>
  groupsOf(results).map((group) => columnsOf(results).map(({ text }) => text(group, results)))

/** The command that compares the methods. */
export const COMPARISON = 'npm run example:finetune'

export const quickText = ({ sentences: { training } }: Results): string =>
  `This is a check that everything works: ${training} sentences are too few to compare methods. The comparison of the ` +
  'methods, on 1000 sentences:'

export function resultsText(results: Results): string {
  const head = tableHead(results)
  const table = textTable(head, ['left', ...head.slice(1).map(() => 'right' as const)])
  table.push(...tableRows(results))
  return [
    ...(results.isQuick ? [`${quickText(results)} ${COMPARISON}\n`] : []),
    `${renderTable(table)}\n`,
    'Accuracies: mean and standard deviation over the seeds. Parameters: without the 513 of the head.',
    ...differenceLines(results),
    ...results.reloads.map(reloadText),
  ].join('\n')
}

/** None of a quick run: a difference of a sentence or two would mean nothing. */
export function differenceLines(results: Results): string[] {
  if (results.isQuick) return []
  return results.routings.flatMap((routing) => {
    const [heldOut, imdb] = (['heldOut', 'otherDomain'] as const).map((metric) =>
      differencesOf(results, routing, metric),
    )
    if (heldOut.length === 0) return []
    const name = nameOf({ method: 'lily', routing })
    return [`${name} minus LoRA, seed by seed: ${percentText(heldOut)} points held out, ${percentText(imdb)} on imdb.`]
  })
}

export function reloadText({ heldOut, isEqual, ...variant }: Reload): string {
  const logits = isEqual ? 'all logits equal to the bit' : 'LOGITS DIFFER'
  return `${nameOf(variant)}, saved and loaded again: ${(100 * heldOut).toFixed(1)} % held out, ${logits}.`
}
