/**
 * Bytes that a call with one pooling group moves on a GPU, from the plan of its launches: what each reads and writes,
 * partial sums and second readings included. For sizes that the emulator cannot bear; where it can, test/cuda/counters
 * holds this against its counts.
 *
 * Of 16-bit tensors on matrix units (native/cuda/launch_forward.cuh and launch_backward.cuh), r <= 128, every output
 * accumulated into. Within a launch everything that blocks share is taken to come from memory once; dy twice where
 * blocks of tokens and blocks of columns both read it and neither it nor a split of it fits into the second-level cache.
 */
import type { Shape } from '../workload/shapes.js'

export interface Device {
  readonly multiprocessors: number
  readonly l2Bytes: number
}

/** From NVIDIA's data sheets and whitepapers; the emulator's own is emulator/runtime/device_properties.cc. */
export const devices = {
  A100: { multiprocessors: 108, l2Bytes: 40 * 2 ** 20 },
  H100: { multiprocessors: 132, l2Bytes: 50 * 2 ** 20 },
  'RTX 4090': { multiprocessors: 128, l2Bytes: 72 * 2 ** 20 },
  emulator: { multiprocessors: 4, l2Bytes: 4 * 2 ** 20 },
} satisfies Record<string, Device>

export interface Traffic {
  /** As the emulator counts it: what a launch touches, once. */
  readonly touched: number
  /** With the second reading of dy. */
  readonly moved: number
}

const SCALAR = 2
const FLOAT = 4

// ---- The plan: native/cuda/plan.h, launch.cuh, tile.cuh ----

interface Walk {
  readonly slices: number
  readonly splits: number
}

const wantedBlocks = ({ multiprocessors }: Device) => Math.max(64, multiprocessors)
const fittingRank = (rank: number) => [16, 32, 64, 128].find((row) => row >= rank) ?? Number.NaN

function shrinkTiles({ tokens, rank }: Shape, device: Device): number {
  let tile = fittingRank(rank) === 128 ? 32 : 64
  while (tile > 8 && Math.ceil(tokens / tile) < wantedBlocks(device)) tile /= 2
  return Math.ceil(tokens / tile)
}

function splitTokens(tokens: number, tile: number, slices: number, device: Device): number {
  const tiles = Math.ceil(tokens / tile)
  const wanted = Math.min(Math.max(Math.ceil(wantedBlocks(device) / slices), 1), tiles)
  return Math.ceil(tiles / Math.ceil(tiles / wanted))
}

function outerWalk({ tokens, d, rank }: Shape, device: Device): Walk {
  const widths = fittingRank(rank) >= 64 ? [64, 32] : [64]
  const walks = widths.map((columns) => {
    const slices = Math.ceil(d / columns)
    return { slices, splits: splitTokens(tokens, 64, slices, device) }
  })
  return walks.reduce((best, walk) => (walk.splits < best.splits ? walk : best))
}

interface DyWalk extends Walk {
  /** One kernel, with q in parts. */
  readonly isOnce: boolean
  readonly readings: 1 | 2
}

function dyWalk(shape: Shape, device: Device): DyWalk {
  const { tokens, d, rank } = shape
  const dy = SCALAR * tokens * d
  const twice = outerWalk(shape, device)
  if (dy <= device.l2Bytes / 2) return { ...twice, isOnce: false, readings: 1 }
  const parts = (q: number, splits: number) => 2 * FLOAT * rank * (q * tokens + (splits > 1 ? splits * d : 0))
  const twiceBytes = dy + parts(0, twice.splits)
  const slices = Math.ceil(d / 512)
  const once = { slices, splits: splitTokens(tokens, 16, slices, device) }
  if (rank <= 32 && parts(slices, once.splits) < twiceBytes) return { ...once, isOnce: true, readings: 1 }
  const tiles = Math.ceil(tokens / 64)
  const tilesInCache = Math.max(1, Math.floor(Math.floor(device.l2Bytes / 8 / (SCALAR * d)) / 64))
  const splits = Math.ceil(tiles / Math.min(tilesInCache, Math.ceil(tiles / twice.splits)))
  if (parts(0, splits) < twiceBytes) return { ...twice, splits, isOnce: false, readings: 1 }
  return { ...twice, isOnce: false, readings: 2 }
}

// ---- Its bytes ----

/** Read once, or read and written. */
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
  /** A gradient in parts that one launch writes and the next adds, or in its place at once. */
  const gradient = (splits: number, bytes: number) => update(bytes) + (splits > 1 ? update(FLOAT * splits * r * d) : 0)
  const losses = FLOAT * E * dyPlan.slices * dyPlan.splits
  const rangeTokens = Math.min(Math.max(32 * Math.ceil(M / 32 / 32), 64), 256)
  const routerParts = FLOAT * Math.ceil(M / rangeTokens) * E * r

  const combine = dyPlan.isOnce ? 0 : read(b) + update(a)
  const dyPass = combine + read(x + hidden + b) + losses + q + (dyPlan.isOnce ? update(dyPlan.slices * q) : 0)
  const xPass = read(x + a + q + hidden + probabilities + losses + router) + update(x + routerParts + router)
  const touched = dyPass + gradient(dyPlan.splits, b) + xPass + gradient(xPlan.splits, a)
  return { touched, moved: touched + (dyPlan.readings - 1) * x }
}
