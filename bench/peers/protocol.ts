/**
 * The protocol between `bench:peers` and a peer, a process that stays open for the whole run: lines of JSON, requests to its
 * stdin and one reply to each from its stdout. The first line of the peer is a `Hello`, without a request.
 */
import type { Pass } from '../methods/methods.js'
import type { DTypeName } from '../workload/dtypes.js'

/** What a peer computes: the same operands and the same adapter as the method of this package of that name. */
export const adapters = ['lily', 'lora'] as const
/** With `--layer`: the frozen linear layer alone, and with each adapter. */
export const layers = ['layer', 'lily-layer', 'lora-layer'] as const
export type Adapter = (typeof adapters)[number] | (typeof layers)[number]

export interface PeerMethod {
  /** Unique within the peer. */
  readonly name: string
  readonly adapter: Adapter
  readonly passes: readonly Pass[]
  readonly dtypes: readonly DTypeName[]
}

/** What was not measured, why, and a command that installs it; '' if there is none. */
export interface Missing {
  readonly name: string
  readonly reason: string
  readonly install: string
}

export interface Hello {
  /** Libraries and their versions. */
  readonly versions: Readonly<Record<string, string>>
  readonly methods: readonly PeerMethod[]
  readonly missing: readonly Missing[]
}

/** `shape` is M, d, r, E. */
export type Request =
  | { readonly request: 'open'; readonly method: string; readonly shape: readonly number[]; readonly dtype: DTypeName }
  /** After `open`: evenly spaced elements of the outputs. */
  | { readonly request: 'outputs'; readonly method: string }
  /** After `open`: makes calls for `warmup` seconds, at least one, and then times `calls` calls. */
  | {
      readonly request: 'sample'
      readonly method: string
      readonly pass: Pass
      readonly warmup: number
      readonly calls: number
    }
  /** Releases the operands of all methods. */
  | { readonly request: 'close' }

/** Outputs by name, of this package's names: y, dx, da, dRouter, db. */
export type Outputs = Readonly<Record<string, readonly number[]>>

/** `error`: the request failed, and the peer can go on. */
export interface Reply {
  readonly error?: string
  readonly outputs?: Outputs
  /** Seconds per call. */
  readonly seconds?: number
}

/** Elements of an output that `outputs` returns at most. */
const COMPARED = 4096

export function evenlySpaced(values: ArrayLike<number>): number[] {
  const stride = Math.ceil(values.length / COMPARED)
  return Array.from({ length: Math.ceil(values.length / stride) }, (_, i) => values[i * stride])
}
