/**
 * The outer product: a sum over tokens. Symbols as in docs/math.md.
 *
 *     out[k, n] = factor sum_t lhs[t, k] rhs[t, n]     D = s h^T dy;  dB = s u^T dy;  dA = dh^T x;  dR = dl^T h
 *
 * A workgroup for each tile of out and each split of the tokens. Out is [splits, rows, columns], float32, for a later pass
 * to add, or with one split the gradient itself. With offsets the splits are the pooling groups: D_g.
 */
import { ceilDiv, type Operand, type Operands, type Part } from '../../binding/gpu-pass.js'
import { readRange } from './groups.js'
import { product, type Tile, type View, workgroupOf } from './product.js'

export interface Outer {
  readonly name: string
  readonly tile: Tile
  readonly lhs: View
  readonly rhs: View
  readonly operands: Operands
  readonly out: readonly [string, Operand]
  /** Rows and columns of the result. */
  readonly rows: number
  readonly columns: number
  readonly tokens: number
  readonly splits: number
  readonly factor: string
  /** Whether the splits are the groups of the operand `offsets`. */
  readonly isGrouped?: boolean
}

/** Tokens of a split: a multiple of every BLOCK_K. */
const splitTokens = (tokens: number, splits: number) => Math.ceil(ceilDiv(tokens, splits) / 16) * 16

export function outer(o: Outer): Part {
  const { name, tile, out, rows, columns, tokens, splits } = o
  const [rowTiles, columnTiles] = [ceilDiv(rows, tile.blockM), ceilDiv(columns, tile.blockN)]
  const range = o.isGrouped
    ? 'let range = read_range(split, tid);'
    : `let begin = min(split * P.${name}_split_tokens, P.${name}_tokens);
  let range = vec2u(begin, min(begin + P.${name}_split_tokens, P.${name}_tokens));`
  return {
    name,
    workgroups: rowTiles * columnTiles * splits,
    operands: { ...o.operands, [out[0]]: out[1] },
    params: {
      [`${name}_row_tiles`]: rowTiles,
      [`${name}_tiles`]: rowTiles * columnTiles,
      [`${name}_rows`]: rows,
      [`${name}_tokens`]: tokens,
      [`${name}_split_tokens`]: splitTokens(tokens, Math.max(splits, 1)),
    },
    helpers: o.isGrouped ? [readRange] : [],
    wgsl: `
var<private> ${name}_split: u32;
${product({
  name,
  tile,
  lhs: o.lhs,
  rhs: o.rhs,
  store: `if (m < P.${name}_rows) { ${out[0]}_put4(${name}_split * P.${name}_rows + m, n, v * ${o.factor}); }`,
})}
fn ${name}(id: u32, tid: u32, item: u32) {
  let split = id / P.${name}_tiles;
  ${name}_split = split;
  ${range}
  let m0 = id % P.${name}_row_tiles * ${tile.blockM}u;
  let n0 = id % P.${name}_tiles / P.${name}_row_tiles * ${tile.blockN}u;
  ${name}_product(m0, n0, range.x, range.y, tid);
}`,
    ...workgroupOf(tile),
  }
}
