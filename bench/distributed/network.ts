/**
 * An alpha-beta model of the exchange of gradients: a rank sends one message after the other, and receives as many meanwhile; a
 * message of b bytes takes alpha + b / beta.
 */

export interface Network {
  /** Seconds per message. */
  readonly alpha: number
  /** Bytes per second of a rank, in each direction. */
  readonly beta: number
}

/** Of the header of an operation, and the least and the most of a piece of an array: as in native/mpi. */
const [HEADER_BYTES, LEAST_PIECE] = [144, 4 * 2 ** 10]
export const LARGEST_PIECE = 512 * 2 ** 10

/** In the order of ranks, and by a ring. */
export const sentBytes = (ranks: number, bytes: number): number => (2 * (ranks - 1) * bytes) / ranks

/**
 * Messages that a rank sends in an average: a header to each other rank; for the pieces of other owners its gradients, and for
 * its own pieces the sum to each other rank.
 */
export function sentMessages(ranks: number, bytes: number, bucketBytes: number): number {
  const piece = Math.max(LEAST_PIECE, Math.min(bytes / ranks, LARGEST_PIECE, bucketBytes / ranks))
  return (ranks - 1) * (1 + (2 * Math.ceil(bytes / piece)) / ranks)
}

/** What lily-kernels/mpi does. */
export const sliceSeconds = (network: Network, ranks: number, bytes: number, bucketBytes: number): number =>
  network.alpha * sentMessages(ranks, bytes, bucketBytes) +
  (sentBytes(ranks, bytes) + (ranks - 1) * HEADER_BYTES) / network.beta

/** A ring: 2 (n - 1) steps, each of which sends a message and waits for one. */
export const ringSeconds = ({ alpha, beta }: Network, ranks: number, bytes: number): number =>
  2 * (ranks - 1) * alpha + sentBytes(ranks, bytes) / beta

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
