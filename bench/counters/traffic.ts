/**
 * Bytes that a call with one pooling group moves on a GPU, computed from the plan of its launches: what each launch reads
 * and writes, including partial sums and second reads. It covers sizes that are too large for the emulator; for smaller
 * ones test/cuda/counters.test.ts compares it with the emulator's counts.
 *
 * Valid for 16-bit tensors on matrix units (native/cuda/launch/plan_forward.cc and plan_backward.cc), r <= 128, and
 * accumulation into every output. Data that the blocks of a launch share is counted once. Of dy, `moved` counts two
 * readings if token blocks and column blocks read it and neither dy nor one split of it fits into L2.
 */
import type { Shape } from '../workload/shapes.js'

export interface Device {
  readonly multiprocessors: number
  readonly l2Bytes: number
}

/** From NVIDIA's data sheets and whitepapers; the emulator's values are those of emulator/runtime/device_properties.cc. */
export const devices = {
  A100: { multiprocessors: 108, l2Bytes: 40 * 2 ** 20 },
  H100: { multiprocessors: 132, l2Bytes: 50 * 2 ** 20 },
  'RTX 4090': { multiprocessors: 128, l2Bytes: 72 * 2 ** 20 },
  emulator: { multiprocessors: 4, l2Bytes: 4 * 2 ** 20 },
} satisfies Record<string, Device>

export interface Traffic {
  /** As the emulator counts: each byte once per launch. */
  readonly touched: number
  /** Including the second read of dy. */
  readonly moved: number
}

const SCALAR = 2
const FLOAT = 4

// ---- The plan: native/cuda/launch/walk.cc, tiles/table.h ----

interface Walk {
  readonly columnTiles: number
  readonly splits: number
}

const minBlocks = ({ multiprocessors }: Device) => Math.max(64, multiprocessors)
const fittingBlock = (rank: number) => [16, 32, 64, 128].find((block) => block >= rank) ?? Number.NaN

function shrinkTiles({ tokens, rank }: Shape, device: Device): number {
  let tile = fittingBlock(rank) === 128 ? 32 : 64
  while (tile > 8 && Math.ceil(tokens / tile) < minBlocks(device)) tile /= 2
  return Math.ceil(tokens / tile)
}

function splitTokens(tokens: number, tile: number, columnTiles: number, device: Device): number {
  const tiles = Math.ceil(tokens / tile)
  const targetCount = Math.min(Math.max(Math.ceil(minBlocks(device) / columnTiles), 1), tiles)
  return Math.ceil(tiles / Math.ceil(tiles / targetCount))
}

function outerWalk({ tokens, d, rank }: Shape, device: Device): Walk {
  const widths = fittingBlock(rank) >= 64 ? [64, 32] : [64]
  const walks = widths.map((columns) => {
    const columnTiles = Math.ceil(d / columns)
    return { columnTiles, splits: splitTokens(tokens, 64, columnTiles, device) }
  })
  return walks.reduce((best, walk) => (walk.splits < best.splits ? walk : best))
}

interface DyWalk extends Walk {
  /** One kernel reads dy once and writes partial sums of q. */
  readonly isOnce: boolean
  /** D and q in two launches, both of which read dy; the second finds it in L2. */
  readonly isDFirst: boolean
  readonly reads: 1 | 2
}

function dyWalk(shape: Shape, device: Device): DyWalk {
  const { tokens, d, rank } = shape
  const dy = SCALAR * tokens * d
  const twice = outerWalk(shape, device)
  if (dy <= device.l2Bytes / 2) return { ...twice, isOnce: false, isDFirst: dy <= device.l2Bytes / 8, reads: 1 }
  const partialBytes = (q: number, splits: number) => 2 * FLOAT * rank * (q * tokens + (splits > 1 ? splits * d : 0))
  const twiceBytes = dy + partialBytes(0, twice.splits)
  const columnTiles = Math.ceil(d / 512)
  const once = { columnTiles, splits: splitTokens(tokens, 16, columnTiles, device) }
  if (rank <= 32 && partialBytes(columnTiles, once.splits) < twiceBytes)
    return { ...once, isOnce: true, isDFirst: false, reads: 1 }
  const tiles = Math.ceil(tokens / 64)
  const tilesInCache = Math.max(1, Math.floor(Math.floor(device.l2Bytes / 8 / (SCALAR * d)) / 64))
  const splits = Math.ceil(tiles / Math.min(tilesInCache, Math.ceil(tiles / twice.splits)))
  if (partialBytes(0, splits) < twiceBytes) return { ...twice, splits, isOnce: false, isDFirst: false, reads: 1 }
  return { ...twice, isOnce: false, isDFirst: false, reads: 2 }
}

// ---- Bytes of the plan ----

/** Traffic of an array that is read, and of one that is read and written. */
const read = (bytes: number) => bytes
const update = (bytes: number) => 2 * bytes

export function forwardTraffic(shape: Shape, device: Device): Traffic {
  const { tokens: M, d, rank: r, experts: E } = shape
  const partials = FLOAT * (E + 1) * shrinkTiles(shape, device)
  const [hidden, probabilities] = [SCALAR * M * r, FLOAT * M * E]
  const shrink = read(SCALAR * (M * d + r * d + E * r)) + hidden + probabilities + partials
  const expand = read(SCALAR * E * r * d + hidden + partials) + update(SCALAR * M * d) + FLOAT * E
  return { touched: shrink + expand, moved: shrink + expand }
}

export function backwardTraffic(shape: Shape, device: Device): Traffic {
  const { tokens: M, d, rank: r, experts: E } = shape
  const [x, hidden, probabilities] = [SCALAR * M * d, SCALAR * M * r, FLOAT * M * E]
  const [a, b, router] = [SCALAR * r * d, SCALAR * E * r * d, SCALAR * E * r]
  const q = FLOAT * M * r
  const dyPlan = dyWalk(shape, device)
  const xPlan = outerWalk(shape, device)
  /** A gradient, and with several splits the partial sums that one launch writes and the next one adds. */
  const gradient = (splits: number, bytes: number) => update(bytes) + (splits > 1 ? update(FLOAT * splits * r * d) : 0)
  const dWeights = FLOAT * E * dyPlan.columnTiles * dyPlan.splits
  const routerSplitTokens = Math.min(Math.max(32 * Math.ceil(M / 32 / 32), 64), 256)
  const routerPartials = FLOAT * Math.ceil(M / routerSplitTokens) * E * r

  const [dHidden, dLogits] = [SCALAR * M * r, FLOAT * M * E]
  const partialsOfQ = dyPlan.isOnce ? dyPlan.columnTiles * q : q
  const forDHidden = read(probabilities + dWeights + router) + dHidden + dLogits

  // C and D, then q and dh; or one phase (after C), then dh.
  const dyPass = dyPlan.isDFirst
    ? read(x + hidden + b) + a + dWeights + read(x + a) + forDHidden
    : (dyPlan.isOnce ? 0 : read(b) + update(a)) + read(x + hidden + b) + dWeights + update(partialsOfQ) + forDHidden
  const xPass = read(x + a + dHidden + dLogits + hidden) + update(x + routerPartials + router)
  const touched = dyPass + gradient(dyPlan.splits, b) + xPass + gradient(xPlan.splits, a)
  return { touched, moved: touched + (dyPlan.isDFirst ? -1 : dyPlan.reads - 1) * x }
}
