/**
 * Tiles of the products, as data: of each table a plan takes the first row whose sizes the product has and whose threads and
 * workgroup memory the device has. There are few rows, because each combination of tile, data types and operands in one
 * buffer is a shader to compile. Results do not depend on the row: every sum is formed by one thread, in the order of k.
 *
 * The number of sums of a workgroup determines the loads from storage: B and A are loaded once for each tile of
 * tokens, h and dh once for each tile of columns. A thread has at most 64 sums: with operands and addresses 128 registers,
 * more than which some GPUs do not have for a thread. So 256 threads, which every device has, own at most 128 x 128 sums,
 * and 512 threads 256 x 128. Not used, where a device has them:
 *
 *     1024 threads              NVIDIA GPUs have 64 registers for each; with 32 sums each the tiles are the same as for 512
 *     64 KiB of workgroup memory  a longer BLOCK_K loads nothing less, and fewer workgroups are resident
 *     subgroups                 broadcasts save loads from workgroup memory, not from storage; sums over a subgroup would make
 *                               the order, and with it the bits, depend on its size, which differs between adapters
 */
import { ceilDiv } from '../../binding/gpu-pass.js'
import { SEGMENT } from '../wgsl/shrink.js'
import { type Tile, tileBytes, tileThreads } from '../wgsl/product.js'

/** The limits of a device that decide on tiles. */
export type TileLimits = Pick<
  GPUSupportedLimits,
  'maxComputeWorkgroupStorageSize' | 'maxComputeInvocationsPerWorkgroup' | 'maxComputeWorkgroupSizeX'
>

/** A tile, and the least sizes of a product that takes it. */
interface Row {
  readonly tile: Tile
  readonly rows: number
  readonly columns: number
  /** Tiles of the result. */
  readonly tiles: number
}

/** BLOCK_M x BLOCK_N x BLOCK_K for so many threads; each has 4 x 4 sums or more. */
function row(
  [blockM, blockN, blockK, threads]: readonly [number, number, number, number],
  { rows = 0, columns = 0, tiles = 0 } = {},
): Row {
  let [threadM, threadN] = [4, 4]
  while ((blockM / threadM) * (blockN / threadN) > threads) {
    if (threadM <= threadN) threadM *= 2
    else threadN *= 2
  }
  return { tile: { blockM, blockN, threadM, threadN, blockK }, rows, columns, tiles }
}

/** Workgroups that keep a GPU busy. */
const BUSY = 64

// BLOCK_K is 16 where both operands and the scratch of what shares the pass fit into the 16 KiB that every device has, and 8
// otherwise.

/** Tokens x columns. The segments of the long dimension give enough workgroups. */
const SHRINK: readonly Row[] = [
  row([256, 64, 8, 512], { rows: 257, columns: 17 }), // A half as often
  row([128, 64, 8, 256], { rows: 257, columns: 17 }), // twice the workgroups of 256 x 64
  row([64, 64, 16, 256], { columns: 17 }), // few tokens: the time goes to A, which is loaded once
  row([64, 16, 16, 256]), // ranks up to 16 would leave three quarters empty
]

/** The same in backward, where an outer product has workgroups beside it or its own pass. */
const BACKWARD_SHRINK: readonly Row[] = [
  row([512, 64, 8, 512], { rows: 512, columns: 17 }), // C once for 512 tokens, also B of token routing; 18 KiB
  row([256, 64, 8, 256], { rows: 257, columns: 17 }),
  ...SHRINK.slice(2),
]

/**
 * Tokens x columns of a shrink by rows, whose workgroups compute all columns of their tokens and then run the router: the most
 * tokens with which all workgroups keep a GPU busy.
 */
const ROW_SHRINK: readonly Row[] = [
  row([64, 64, 16, 256], { rows: 64 * (BUSY - 1) + 1, columns: 17 }),
  row([32, 64, 16, 256], { rows: 32 * (BUSY - 1) + 1, columns: 17 }),
  row([16, 64, 16, 256], { columns: 17 }),
  row([64, 16, 16, 256], { rows: 64 * (BUSY - 1) + 1 }),
  row([32, 16, 16, 256], { rows: 32 * (BUSY - 1) + 1 }),
  row([16, 16, 16, 256]),
]

/** Tokens x columns. Large tiles load both operands less often, if there are enough of them. */
const EXPAND: readonly Row[] = [
  row([256, 128, 8, 512], { tiles: BUSY / 2 }), // three quarters of the loads of 128 x 128
  row([128, 128, 8, 256], { tiles: BUSY / 2 }),
  row([64, 64, 16, 256]),
]

/** The same where forming four numbers of rhs loads four of each expert: more tokens in each tile. */
const MIXING_EXPAND: readonly Row[] = [
  row([256, 128, 8, 512], { tiles: BUSY / 2 }), // h half as often as with 64 columns
  row([256, 64, 8, 256], { rows: 65 }),
  row([64, 64, 16, 256]),
]

/** Rows (of rank or experts) x columns of an outer product. */
const OUTER: readonly Row[] = [
  row([64, 512, 8, 512], { rows: 17, columns: 2048 }), // h or dh half as often; 18 KiB
  row([64, 256, 8, 256], { rows: 17 }),
  row([16, 128, 8, 256]), // ranks up to 16, and experts
]

export const TILES = { SHRINK, BACKWARD_SHRINK, ROW_SHRINK, EXPAND, MIXING_EXPAND, OUTER }

/**
 * Bytes of workgroup memory beside a tile: the lanes of a sum, the sums and the tokens of a group, and the mask of dropout, a
 * word for eight elements of the longer side. Rows for 256 threads leave more room where more is used.
 */
const scratchBytes = (tile: Tile): number =>
  4 * tileThreads(tile) + 4 * 128 + 8 + (Math.max(tile.blockM, tile.blockN) * tile.blockK) / 2

/** The most threads of a workgroup. */
export const threadsOf = ({ maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX }: TileLimits): number =>
  Math.min(maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX)

/** The tile of a product of so many rows and columns. */
export function tileFor(table: readonly Row[], rows: number, columns: number, limits: TileLimits): Tile {
  const threads = threadsOf(limits)
  const takes = ({ tile, ...least }: Row) =>
    rows >= least.rows &&
    columns >= least.columns &&
    ceilDiv(rows, tile.blockM) * ceilDiv(columns, tile.blockN) >= least.tiles &&
    tileThreads(tile) <= threads &&
    tileBytes(tile) + scratchBytes(tile) <= limits.maxComputeWorkgroupStorageSize
  return (table.find(takes) ?? table[table.length - 1]).tile
}

/** Segments of the long dimension that have workgroups of their own: all of them if there are few tiles, otherwise 1. */
export function shrinkSegments(tile: Tile, tokens: number, columns: number, depth: number): number {
  const tiles = ceilDiv(tokens, tile.blockM) * ceilDiv(columns, tile.blockN)
  return tiles < BUSY ? ceilDiv(depth, SEGMENT) : 1
}

/** Workgroups of an outer product; more would add more partial sums. */
const OUTER_WORKGROUPS = 24

/**
 * Splits of the tokens of an outer product: enough workgroups, 64 tokens or more in each, and partial sums, which a later pass
 * loads, of at most a quarter of rhs; an eighth if the product shares its pass with an expand, which has workgroups enough.
 */
export function outerSplits(tile: Tile, rows: number, columns: number, tokens: number, isShared: boolean): number {
  const tiles = ceilDiv(rows, tile.blockM) * ceilDiv(columns, tile.blockN)
  const small = Math.floor(tokens / (rows * (isShared ? 8 : 4)))
  return Math.max(1, Math.min(ceilDiv(OUTER_WORKGROUPS, tiles), ceilDiv(tokens, 64), small))
}

/**
 * Whether forward splits the long dimension of the shrink; then the expand has to combine the experts itself, in each tile
 * of tokens, because a third dispatch cannot. Few tokens have too few tiles otherwise; with many, B would be loaded often.
 */
export function splitsShrink(tokens: number, products: number): boolean {
  const repeats = ceilDiv(tokens, 256) - 1
  return tokens <= 256 || (tokens < 4096 && repeats * products <= 2 * tokens)
}
