/** The results of `bench:peers`: the report that is written as JSON, and its Markdown. */
import { shapeText } from '../workload/shapes.js'
import { OURS } from './contender.js'
import type { PeerRow } from './measure.js'
import type { Adapter, Missing } from './protocol.js'

/** What reports of contenders side by side begin with. */
export interface Measurement {
  readonly version: string
  /** ISO 8601. */
  readonly measuredAt: string
  readonly command: string
  /** False if the run was interrupted. */
  readonly complete: boolean
  readonly machine: {
    readonly device: string
    readonly instructionSet: string
    /** Number of threads of every contender. */
    readonly threads: number
    readonly platform: string
  }
  /** Libraries and their versions. */
  readonly versions: Readonly<Record<string, string>>
}

/** The same, of contenders that are processes of their own. */
export interface Comparison extends Measurement {
  /** Variables that were set for PyTorch. */
  readonly environment: Readonly<Record<string, string>>
  readonly missing: readonly Missing[]
}

export interface PeersReport extends Comparison {
  readonly rows: readonly PeerRow[]
}

const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}

const titles: Readonly<Record<Adapter, string>> = {
  lily: 'Lily',
  lora: 'LoRA',
  layer: 'The frozen layer alone',
  'lily-layer': 'The frozen layer with Lily',
  'lora-layer': 'The frozen layer with LoRA',
}

/** A table for each adapter and data type. */
function tables({ rows, machine }: PeersReport): string[] {
  return groups(rows, ({ adapter, dtype }) => `${titles[adapter]}, ${dtype}`).flatMap(([title, section]) => {
    const names = contendersOf(section)
    const heads = [...HEADS, ...names.map((name) => (name === OURS ? `${name} ms` : name))]
    const lines = section.map((row) => [
      ...labels(row, machine.instructionSet),
      ...names.map((name) => {
        const found = row.results.find(({ contender }) => contender === name)
        if (found === undefined) return '-'
        return milliseconds(found.median) + (name === OURS ? '' : ` (${found.ratioToOurs.toFixed(2)})`)
      }),
    ])
    return table(title, heads, lines)
  })
}

/** A table for each adapter and data type of what the adapter adds to the frozen layer. */
function overheadTables({ rows, machine }: PeersReport): string[] {
  const withAdapter = rows.filter(({ results }) => results.some(({ ratioToLayer }) => ratioToLayer !== null))
  const titleOf = ({ adapter, dtype }: PeerRow) =>
    `What ${adapter === 'lily-layer' ? 'Lily' : 'LoRA'} adds to the frozen layer, ${dtype}`
  return groups(withAdapter, titleOf).flatMap(([title, section]) => {
    const names = contendersOf(section)
    const lines = section.map((row) => [
      ...labels(row, machine.instructionSet),
      ...names.map((name) => {
        const ratio = row.results.find(({ contender }) => contender === name)?.ratioToLayer ?? null
        return ratio === null ? '-' : `${Math.round((ratio - 1) * 100)} %`
      }),
    ])
    return table(title, [...HEADS, ...names], lines)
  })
}

const HEADS = ['M, d, r, E', 'pass', 'instruction set']

function labels({ shape, pass }: PeerRow, instructionSet: string): string[] {
  return [shapeText(shape), pass.replace('+', ' + '), instructionSet]
}

function groups(rows: readonly PeerRow[], titleOf: (row: PeerRow) => string): [string, PeerRow[]][] {
  const sections = new Map<string, PeerRow[]>()
  for (const row of rows) sections.set(titleOf(row), [...(sections.get(titleOf(row)) ?? []), row])
  return [...sections]
}

function contendersOf(rows: readonly PeerRow[]): string[] {
  return [...new Set(rows.flatMap(({ results }) => results.map(({ contender }) => contender)))]
}

function table(title: string, heads: readonly string[], lines: readonly string[][]): string[] {
  const rule = heads.map((_, i) => (i < HEADS.length ? '---' : '---:'))
  return ['', `### ${title}`, '', ...[heads, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`)]
}

export function peersMarkdown(report: PeersReport): string {
  const { machine, versions, environment, missing, command, measuredAt, complete, version, rows } = report
  const list = (values: Readonly<Record<string, string>>): string =>
    Object.entries(values)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ')
  return `${[
    `## ${machine.device}, ${machine.instructionSet}, ${machine.threads} thread${machine.threads === 1 ? '' : 's'}`,
    '',
    `\`${command}\`, lily-kernels ${version}, ${measuredAt.slice(0, 10)}, ${machine.platform}. ${list(versions)}.`,
    `PyTorch ran with ${Object.entries(environment)
      .map(([name, value]) => `${name}=${value}`)
      .join(' ')}.`,
    '',
    'Milliseconds per call, medians; in brackets the time relative to lily-kernels. All contenders ran in turn, with the',
    'same operands, data types and number of threads, and their outputs agree. Caches are warm. lily-kernels accumulates',
    'into y, dx and the gradients that are given; PyTorch returns new ones.',
    ...(rows.some(({ adapter }) => adapter === 'layer')
      ? [
          'The weight of the frozen layer is packed for lily-kernels, and forward overwrites y. What an adapter adds is the',
          'median of the ratios of each round to the frozen layer of the same contender.',
        ]
      : []),
    ...(complete ? [] : ['', '**Interrupted: the remaining cases were not measured.**']),
    ...tables(report),
    ...overheadTables(report),
    ...(missing.length === 0 ? [] : ['', 'Not measured:', '']),
    ...missing.map(
      ({ name, reason, install }) => `- ${name}: ${reason}${install === '' ? '' : `; to install it: ${install}`}`,
    ),
  ].join('\n')}\n`
}
