/**
 * Tiles of the products, as data. There are few of them, because each combination of tile, data types and operands in one
 * buffer is a shader to compile. Few tokens leave most of a tile empty; such calls take the time to load A and B anyway.
 */
import { ceilDiv } from '../pass.js'
import { THREADS } from '../wgsl/module.js'
import { SEGMENT } from '../wgsl/shrink.js'
import type { Tile } from '../wgsl/product.js'

/**
 * A tile of 256 threads at most, each with 4 x 4 sums or more. BLOCK_K is what fits, with both operands and the router's
 * scratch, into the 16 KiB of workgroup memory that every device has.
 */
function tile(blockM: number, blockN: number): Tile {
  let [threadM, threadN] = [4, 4]
  while ((blockM / threadM) * (blockN / threadN) > THREADS) {
    if (threadM <= threadN) threadM *= 2
    else threadN *= 2
  }
  return { blockM, blockN, threadM, threadN, blockK: blockM + blockN > 128 ? 8 : 16 }
}

/** Rows or columns of a tile for a small dimension: larger ones are loaded in several tiles. */
const smallBlock = (size: number) => (size <= 16 ? 16 : 64)

/** Workgroups that keep a GPU busy. */
const BUSY = 64

/**
 * Tokens x columns of a tiled shrink. With more tokens in a tile, the rows of the small matrix are loaded less often; the
 * segments of the long dimension give enough workgroups. In backward, those of the outer product add to them.
 */
export const tiledShrinkTile = (tokens: number, columns: number, isBackward = false): Tile =>
  tile(columns > 16 && tokens > 256 ? (isBackward ? 256 : 128) : 64, smallBlock(columns))

/** Tokens x columns of a shrink by rows, whose workgroups compute all columns of their tokens: fewer tokens give more. */
export const rowShrinkTile = (tokens: number, columns: number): Tile => {
  const blockM = [64, 32].find((rows) => ceilDiv(tokens, rows) >= BUSY) ?? 16
  return tile(blockM, smallBlock(columns))
}

/** Segments of the long dimension that have workgroups of their own: all of them if there are few tiles, otherwise 1. */
export function shrinkSegments(tile: Tile, tokens: number, columns: number, depth: number): number {
  const tiles = ceilDiv(tokens, tile.blockM) * ceilDiv(columns, tile.blockN)
  return tiles < BUSY ? ceilDiv(depth, SEGMENT) : 1
}

/** Tokens x columns of an expand. Large tiles load both operands less often. */
export const expandTile = (tokens: number, columns: number): Tile => {
  const large = ceilDiv(tokens, 128) * ceilDiv(columns, 128)
  return large >= BUSY / 2 ? tile(128, 128) : tile(64, 64)
}

/** The same where forming four numbers of rhs loads those of all experts: more tokens in each tile. */
export const mixingExpandTile = (tokens: number): Tile => (tokens <= 64 ? tile(64, 64) : tile(256, 64))

/** Rows (of rank or experts) x columns of an outer product. */
export const outerTile = (rows: number): Tile => (rows <= 16 ? tile(16, 128) : tile(64, 256))

/** Workgroups of an outer product, which shares its pass with a shrink or an expand; more would add more partial sums. */
const OUTER_WORKGROUPS = 24

/** Splits of the tokens of an outer product: enough workgroups, and 64 tokens or more in each. */
export function outerSplits(tile: Tile, rows: number, columns: number, tokens: number): number {
  const tiles = ceilDiv(rows, tile.blockM) * ceilDiv(columns, tile.blockN)
  return Math.max(1, Math.min(ceilDiv(OUTER_WORKGROUPS, tiles), ceilDiv(tokens, 64)))
}

/**
 * Whether forward splits the long dimension of the shrink; then the expand has to combine the experts itself, in each tile
 * of tokens, because a third dispatch cannot. Few tokens have too few tiles otherwise; with many, B would be loaded often.
 */
export function splitsShrink(tokens: number, products: number): boolean {
  const repeats = ceilDiv(tokens, 256) - 1
  return tokens <= 256 || (tokens < 4096 && repeats * products <= 2 * tokens)
}
