/**
 * The protocol between `bench:distributed` and a job of ranks that stays open: lines of JSON, requests to the stdin of rank 0
 * and one reply to each from its stdout. The first line of the job is a `Hello` of bench/peers/protocol.ts, without a
 * request. The end of stdin ends the job. allreduce.c reads the fields in the order in which they stand here.
 */

/**
 * How gradients are averaged. `array`: one parameter. `model`: a LoraModel, whose parameters have 64 KiB each, and as many
 * bytes together.
 */
export const ways = ['MPI_Allreduce', 'array', 'model'] as const
export type Way = (typeof ways)[number]

export type Request =
  /** Replaces the gradients by new ones, and averages them once in each way: the reply has the hashes. */
  | { readonly request: 'open'; readonly bytes: number }
  /** Makes `warmup` calls, and then times `calls` calls. */
  | { readonly request: 'sample'; readonly way: Way; readonly warmup: number; readonly calls: number }

/** `error`: the request failed. */
export interface Reply {
  readonly error?: string
  /** Hashes of the averages, which have the same bits in every way on two ranks. */
  readonly hashes?: Readonly<Partial<Record<Way, number>>>
  /** Per call. */
  readonly seconds?: number
}

/** Element i of the gradients of a rank. allreduce.c has the same numbers. */
export const gradientOf = (i: number, rank: number): number =>
  Math.fround(Math.fround(((i * 7919 + rank * 104729) % 211) / 105) - 1)

/** FNV-1a of words of 32 bits, as in allreduce.c; `hash` is the hash of the words before them. */
export function hashOf(values: Float32Array, hash = 2166136261): number {
  for (const bits of new Uint32Array(values.buffer, values.byteOffset, values.length)) {
    hash = Math.imul(hash ^ bits, 16777619) >>> 0
  }
  return hash
}
