/** An alpha-beta model of the exchange of gradients: a message of b bytes takes alpha + b / beta. */

export interface Network {
  /** Seconds per message. */
  readonly alpha: number
  /** Bytes per second of a rank, in each direction. */
  readonly beta: number
}

/** Of the header of an operation: its number, its key and its weight. */
const HEADER_BYTES = 256

const messages = ({ alpha, beta }: Network, count: number, bytes: number): number => count * (alpha + bytes / beta)

/** Each rank sends 2 (n - 1) / n of the bytes of the gradients, by every algorithm here. */
export const sentBytes = (ranks: number, bytes: number): number => (2 * (ranks - 1) * bytes) / ranks

/** Sizes of the buckets of an average. */
function bucketsOf(bytes: number, bucketBytes: number): number[] {
  const full = Math.floor(bytes / bucketBytes)
  const rest = bytes - full * bucketBytes
  return [...Array.from({ length: full }, () => bucketBytes), ...(rest > 0 ? [rest] : [])]
}

/**
 * What lily-kernels/mpi does: a header to each rank, and for each bucket n - 1 messages of b / n bytes with the gradients,
 * and n - 1 with the sums. One message follows the other here, so the time is an upper bound: they are under way at once.
 */
export function sliceSeconds(network: Network, ranks: number, bytes: number, bucketBytes: number): number {
  const buckets = bucketsOf(bytes, bucketBytes).map((b) => messages(network, 2 * (ranks - 1), b / ranks))
  return buckets.reduce((sum, seconds) => sum + seconds, messages(network, ranks - 1, HEADER_BYTES))
}

/** A ring: 2 (n - 1) steps, each of which waits for the one before it. */
export const ringSeconds = (network: Network, ranks: number, bytes: number): number =>
  messages(network, 2 * (ranks - 1), bytes / ranks)

/** Recursive halving and doubling: 2 log2 n steps, for powers of two. The bytes are those of a ring. */
export const halvingSeconds = (network: Network, ranks: number, bytes: number): number =>
  2 * Math.log2(ranks) * network.alpha + sentBytes(ranks, bytes) / network.beta

/** Gradients that are complete together. */
export interface Ready {
  /** Since the beginning of backward. */
  readonly seconds: number
  readonly bytes: number
}

/**
 * Seconds after backward until all gradients are averaged, if a bucket is sent as soon as its gradients are complete, one
 * bucket at a time, and the rest after backward.
 *
 * @param ready in the order of time
 */
export function exposedSeconds(
  network: Network,
  ranks: number,
  ready: readonly Ready[],
  backwardSeconds: number,
  bucketBytes: number,
): number {
  let [waiting, free] = [0, 0]
  const send = (from: number, bytes: number): void => {
    free = Math.max(free, from) + sliceSeconds(network, ranks, bytes, bucketBytes)
  }
  for (const { seconds, bytes } of ready) {
    waiting += bytes
    for (; waiting >= bucketBytes; waiting -= bucketBytes) send(seconds, bucketBytes)
  }
  if (waiting > 0) send(backwardSeconds, waiting)
  return Math.max(0, free - backwardSeconds)
}
