/**
 * The protocol between `bench:rows` and a contender, a process that stays open for the whole run: lines of JSON, requests to
 * its stdin and one reply to each from its stdout. The first line of the contender is a `Hello` of
 * bench/peers/protocol.ts, without a request.
 */
import type { Outputs } from '../peers/protocol.js'

export const adapters = ['lora', 'lily', 'lily-token'] as const
export type AdapterName = (typeof adapters)[number]

/** Which adapter a sequence has: the sequences of an adapter follow each other, or the adapters take turns. */
export const orders = ['sorted', 'in turns'] as const
export type Order = (typeof orders)[number]

/** A layer of d x d with adapters of float32, and a batch of sequences of equal length. */
export interface Problem {
  readonly adapter: AdapterName
  readonly sequences: number
  readonly length: number
  readonly d: number
  readonly rank: number
  /** Experts of Lily. */
  readonly experts: number
  readonly adapters: number
  readonly order: Order
}

/** The adapter of each sequence. */
export function adaptersOf({ sequences, adapters: count, order }: Problem): number[] {
  return Array.from({ length: sequences }, (_, i) =>
    order === 'sorted' ? Math.floor((i * count) / sequences) : i % count,
  )
}

/** Scales of the parameters of an adapter. */
export const SCALES: Readonly<Record<'a' | 'router' | 'b', (d: number, rank: number) => number>> = {
  a: (d) => d ** -0.5,
  router: (_, rank) => rank ** -0.5,
  b: () => 0.02,
}

/** The index in the pattern where each parameter of adapter k begins. */
export const firstNumber = (k: number): number => 1009 * k

/**
 * Methods. `one`: a call with the first adapter on all rows, the least that any of them can take. `call`: one call
 * with the adapters of the rows. `loop`: a call for each adapter, whose rows are gathered unless they follow each other.
 * `gather`: A and B of each row are gathered, and multiplied in a batch of products.
 */
export const methods = ['one', 'call', 'loop', 'gather'] as const
export type Method = (typeof methods)[number]

export type Request =
  /** Creates the operands, in place of those before. `of`: the adapter of each sequence. The reply has the methods. */
  | { readonly request: 'open'; readonly problem: Problem; readonly of: readonly number[] }
  /** Evenly spaced elements of y, to which the call adds: it is zero before. */
  | { readonly request: 'outputs'; readonly method: Method }
  /** Makes calls for `warmup` seconds, at least one, and then times `calls` calls. */
  | { readonly request: 'sample'; readonly method: Method; readonly warmup: number; readonly calls: number }

/** `error`: the request failed, and the contender can go on. */
export interface Reply {
  readonly error?: string
  readonly methods?: readonly Method[]
  readonly outputs?: Outputs
  /** Seconds per call. */
  readonly seconds?: number
}
