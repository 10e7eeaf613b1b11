/** The shape of one adapted linear layer: M tokens, d_in = d_out = d, rank r, E experts. */
export interface Shape {
  readonly tokens: number
  readonly d: number
  readonly rank: number
  readonly experts: number
}

/** Small and large layers, decoding (M = 1), and ranks that PEFT users set: 16 to 896. */
export const shapes: readonly Shape[] = [
  { tokens: 512, d: 768, rank: 16, experts: 4 },
  { tokens: 2048, d: 768, rank: 32, experts: 4 },
  { tokens: 2048, d: 4096, rank: 16, experts: 4 },
  { tokens: 2048, d: 4096, rank: 64, experts: 4 },
  { tokens: 1, d: 4096, rank: 16, experts: 4 },
  { tokens: 64, d: 4096, rank: 16, experts: 4 },
  { tokens: 512, d: 1024, rank: 128, experts: 4 },
  { tokens: 512, d: 3072, rank: 896, experts: 2 },
]

/** Additional shapes for a GPU: a batch of long sequences, which occupies the whole device. */
export const deviceShapes: readonly Shape[] = [
  { tokens: 8192, d: 4096, rank: 16, experts: 4 },
  { tokens: 8192, d: 4096, rank: 64, experts: 4 },
  { tokens: 8192, d: 4096, rank: 448, experts: 2 },
]

export const shapeText = ({ tokens, d, rank, experts }: Shape): string => [tokens, d, rank, experts].join(', ')

/** Parses `M,d,r,E`, the form of the command line. */
export function parseShape(text: string): Shape {
  const numbers = text.split(',').map(Number)
  const [tokens, d, rank, experts] = numbers
  if (numbers.length !== 4 || !numbers.every((n) => Number.isInteger(n) && n >= 1) || rank > 4096 || experts > 64) {
    throw new Error(`expected M,d,r,E: four positive integers, r up to 4096, E up to 64 (512,768,16,4); got ${text}`)
  }
  return { tokens, d, rank, experts }
}
