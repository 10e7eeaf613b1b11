/** The shapes of the benchmark. */

/** One adapted layer: `tokens` rows, d_in = d_out = `features`, rank r, E experts. */
export interface Case {
  readonly tokens: number
  readonly features: number
  readonly rank: number
  readonly experts: number
}

/** Small enough for a phone; the last one is for GPUs. */
export const presets: readonly (Case & { readonly use: string })[] = [
  { tokens: 128, features: 512, rank: 8, experts: 4, use: 'a small batch' },
  { tokens: 512, features: 768, rank: 16, experts: 4, use: 'training of an encoder' },
  { tokens: 1, features: 2048, rank: 16, experts: 4, use: 'decoding' },
  { tokens: 2048, features: 2048, rank: 32, experts: 4, use: 'training of a decoder' },
]

export const caseText = ({ tokens, features, rank, experts }: Case): string =>
  [tokens, features, rank, experts].join(', ')

/** Parses 'M, d, r, E'. Returns null for anything else. */
export function parseCase(text: string): Case | null {
  const numbers = text.split(',').map(Number)
  const [tokens, features, rank, experts] = numbers
  const isCase = numbers.length === 4 && numbers.every((n) => Number.isInteger(n) && n >= 1)
  return isCase && rank <= 4096 && experts <= 64 ? { tokens, features, rank, experts } : null
}
