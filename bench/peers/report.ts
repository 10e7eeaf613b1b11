/** The results of `bench:peers`: the report that is written as JSON, and its Markdown. */
import { shapeText } from '../workload/shapes.js'
import { OURS } from './contender.js'
import type { PeerRow } from './measure.js'
import type { Missing } from './protocol.js'

export interface PeersReport {
  readonly version: string
  /** ISO 8601. */
  readonly measuredAt: string
  readonly command: string
  /** False if the run was interrupted. */
  readonly complete: boolean
  readonly machine: {
    readonly device: string
    readonly instructionSet: string
    /** Of every contender. */
    readonly threads: number
    readonly platform: string
  }
  /** Libraries and their versions. */
  readonly versions: Readonly<Record<string, string>>
  /** Variables that were set for PyTorch. */
  readonly environment: Readonly<Record<string, string>>
  readonly missing: readonly Missing[]
  readonly rows: readonly PeerRow[]
}

const milliseconds = (seconds: number): string => {
  const value = seconds * 1e3
  return value.toFixed(value < 0.1 ? 4 : value < 10 ? 3 : 1)
}

/** A table for each adapter and data type. */
function tables({ rows, machine }: PeersReport): string[] {
  const sections = new Map<string, PeerRow[]>()
  for (const row of rows) {
    const title = `${row.adapter === 'lily' ? 'Lily' : 'LoRA'}, ${row.dtype}`
    sections.set(title, [...(sections.get(title) ?? []), row])
  }
  return [...sections].flatMap(([title, section]) => {
    const names = [...new Set(section.flatMap(({ results }) => results.map(({ contender }) => contender)))]
    const heads = [
      'M, d, r, E',
      'pass',
      'instruction set',
      ...names.map((name) => (name === OURS ? `${name} ms` : name)),
    ]
    const lines = section.map(({ shape, pass, results }) => [
      shapeText(shape),
      pass.replace('+', ' + '),
      machine.instructionSet,
      ...names.map((name) => {
        const found = results.find(({ contender }) => contender === name)
        if (found === undefined) return '-'
        return milliseconds(found.median) + (name === OURS ? '' : ` (${found.ratioToOurs.toFixed(2)})`)
      }),
    ])
    const rule = heads.map((_, i) => (i < 3 ? '---' : '---:'))
    return ['', `### ${title}`, '', ...[heads, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`)]
  })
}

export function peersMarkdown(report: PeersReport): string {
  const { machine, versions, environment, missing, command, measuredAt, complete, version } = report
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
    ...(complete ? [] : ['', '**Interrupted: the remaining cases were not measured.**']),
    ...tables(report),
    ...(missing.length === 0 ? [] : ['', 'Not measured:', '']),
    ...missing.map(
      ({ name, reason, install }) => `- ${name}: ${reason}${install === '' ? '' : `; to install it: ${install}`}`,
    ),
  ].join('\n')}\n`
}
