/**
 * The protocol between `bench:step` and a contender, a process that stays open for the whole run: lines of JSON, requests to
 * its stdin and one reply to each from its stdout. The first line of the contender is a `Hello` of
 * bench/peers/protocol.ts, without a request.
 */
import type { Problem } from './problem.js'

/** Parts of the time of a step, and what they are in the reports. */
export const partTitles = {
  layers: 'linear layers and adapters',
  attention: 'attention',
  kernels: 'other operations',
  framework: 'tape and JavaScript',
  optimiser: 'optimiser',
} as const
export type Part = keyof typeof partTitles
export const parts = Object.keys(partTitles) as Part[]

export type Request =
  /** Creates the encoder, the adapters and the optimiser with their initial values, in place of those before. */
  | { readonly request: 'open'; readonly problem: Problem }
  /** Makes steps and returns their losses. */
  | { readonly request: 'losses'; readonly steps: number }
  /** Makes `warmup` rounds of steps, one for each batch, and then times `rounds` more. */
  | { readonly request: 'sample'; readonly warmup: number; readonly rounds: number }
  /** The same, with the time of each part. */
  | { readonly request: 'parts'; readonly warmup: number; readonly rounds: number }

/** `error`: the request failed, and the contender can go on. */
export interface Reply {
  readonly error?: string
  /** Before each step. */
  readonly losses?: readonly number[]
  /** Seconds per step. */
  readonly seconds?: number
  /** Seconds per step of each part. A contender that does not separate two parts leaves one out. */
  readonly parts?: Readonly<Partial<Record<Part, number>>>
}
