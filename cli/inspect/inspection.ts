/** What an inspection has found: what `--json` writes, and what the table and the page are made of. */
import type { Analysis, LayerAnalysis, TargetAnalysis } from '../../lib/index.js'

export interface Inspection {
  readonly version: string
  readonly folder: string
  /** The file of samples; null: there was none. */
  readonly samples: string | null
  readonly analysis: Analysis
}

export const percent = (share: number | null): string => (share === null ? '-' : `${(share * 100).toFixed(0)}%`)

export const short = (value: number): string => value.toPrecision(3)

export const titleOf = ({ target, inFeatures, outFeatures, layers }: TargetAnalysis): string =>
  `${target}: ${layers.length} layer${layers.length === 1 ? '' : 's'} of ${inFeatures} to ${outFeatures}`

/** Nothing is -0.00. */
export const twoDigits = (value: number): string => value.toFixed(2).replace('-0.00', '0.00')

/** The parts of the layers' names in which they differ; all of the name where there is one layer. */
export function labelsOf(layers: readonly LayerAnalysis[]): string[] {
  const names = layers.map(({ name }) => name.split('.'))
  const differs = (i: number) => names.some((parts) => parts.length !== names[0].length || parts[i] !== names[0][i])
  return names.map((parts) => {
    const differing = parts.filter((_, i) => differs(i))
    return (differing.length === 0 ? parts : differing).join('.')
  })
}

/** Whether its routers are looked at: otherwise every expert counts the same. */
export const isRouted = ({ layers }: TargetAnalysis): boolean =>
  layers.some(({ router }) => router.source !== 'uniform')
