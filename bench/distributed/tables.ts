/** The tables of docs/distributed.md that no network has measured. */
import { type Adapter, adapters, baseParameters, BLOCKS, sharing } from './adapters.js'
import { exposedSeconds, type Network, ringSeconds, sentBytes, sliceSeconds } from './network.js'

export interface Assumptions extends Network {
  readonly bucketBytes: number
  /** Tokens of a rank in a step. */
  readonly tokens: number
  /** Per second, of a rank in backward. */
  readonly flops: number
  /** Bytes per second between the memory of a device and the host. */
  readonly copies: number
}

export const DEFAULTS: Assumptions = {
  alpha: 2e-6,
  beta: 1.25e10,
  bucketBytes: 32 * 2 ** 20,
  tokens: 8192,
  flops: 4e14,
  copies: 2.5e10,
}

export interface Table {
  /** What the table shows. */
  readonly title: string
  /** In Markdown. */
  readonly lines: readonly string[]
}

const RANKS = [8, 16, 32, 64, 128, 256, 512, 1024]
const [lora, equalSize, equalRank] = adapters

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1)
const milliseconds = (seconds: number): string => (seconds * 1e3).toFixed(1)

function table(title: string, heads: readonly string[], lines: readonly (readonly string[])[]): Table {
  const rule = heads.map((_, i) => (i === 0 ? '---' : '---:'))
  return { title, lines: [heads, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`) }
}

const sizes = ({ copies }: Assumptions): Table =>
  table(
    `Adapters of all linear layers of the ${BLOCKS} blocks of Llama 3 8B, Lily with strideA ${sharing.strideA} and numB ` +
      `${sharing.numB}: MB of float32 gradients, of these complete at the end of backward only, MB of moments, and ms to copy ` +
      'gradients from a device and back',
    ['adapter', 'parameters', 'gradients', 'complete last', 'moments', 'copies'],
    adapters.map(({ title, parameters, gradientBytes, readyBytes, momentBytes }) => [
      title,
      parameters.toLocaleString('en'),
      megabytes(gradientBytes),
      `${megabytes(readyBytes[0])} (${((100 * readyBytes[0]) / gradientBytes).toFixed(0)} %)`,
      megabytes(momentBytes),
      milliseconds((2 * gradientBytes) / copies),
    ]),
  )

/** A backward that skips the gradients of weights takes 2 FLOPs for each weight and token. */
export const backwardSeconds = ({ tokens, flops }: Assumptions): number => (2 * baseParameters * tokens) / flops

/** The part of an exchange that remains after backward if each bucket is sent as soon as it is complete. */
function exposed(assumptions: Assumptions, ranks: number, { readyBytes }: Adapter): number {
  const backward = backwardSeconds(assumptions)
  const ready = readyBytes.map((bytes, block) => ({ seconds: (backward * (BLOCKS - block)) / BLOCKS, bytes }))
  return exposedSeconds(assumptions, ranks, ready.reverse(), backward, assumptions.bucketBytes)
}

const exchange = (assumptions: Assumptions): Table => {
  const exchangeOf = (ranks: number, { gradientBytes }: Adapter): string[] => [
    megabytes(sentBytes(ranks, gradientBytes)),
    milliseconds(sliceSeconds(assumptions, ranks, gradientBytes, assumptions.bucketBytes)),
  ]
  return table(
    `${lora.title}: MB that a rank sends per step, and ms of the exchange in the order of ranks and by a ring; the remainder of the first after a backward of ${milliseconds(backwardSeconds(assumptions))} ms, and of ` +
      `${equalSize.title}'s, if each bucket were sent as soon as it is complete; MB and ms of ${equalRank.title}`,
    ['ranks', 'LoRA: MB', 'ms', 'ring', 'left', 'equal size: left', 'equal rank: MB', 'ms'],
    RANKS.map((ranks) => [
      String(ranks),
      ...exchangeOf(ranks, lora),
      milliseconds(ringSeconds(assumptions, ranks, lora.gradientBytes)),
      ...[lora, equalSize].map((adapter) => milliseconds(exposed(assumptions, ranks, adapter))),
      // It fits in one bucket, so all of it is left.
      ...exchangeOf(ranks, equalRank),
    ]),
  )
}

export const tablesOf = (assumptions: Assumptions): Table[] => [sizes(assumptions), exchange(assumptions)]
