/**
 * The shrinking product: tokens times a long dimension, against the rows of a small matrix. Symbols as in docs/math.md.
 *
 *     out[t, j] = sum_n x[t, n] w[j, n]        h = phi(x A^T);  q = dy C^T;  v = dy B^T
 *
 * Tiled: a workgroup for each tile of out and, if there are few tiles, for each segment of the long dimension; out is
 * [segments, M, columns], float32. By rows: a workgroup for each tile of tokens computes all columns, so it can go on with
 * what needs complete rows. All add segment by segment and give the same bits.
 */
import { ceilDiv, type Operand, type Part } from '../../binding/gpu-pass.js'
import type { Prepare } from './expand.js'
import { product, type Tile, type View, workgroupOf } from './product.js'
import { wgsl } from './text.js'

/** Elements of the long dimension in a segment. */
export const SEGMENT = 256

export interface Shrink {
  readonly name: string
  readonly tile: Tile
  /** [M, depth]: its name in the shader, and the operand. */
  readonly lhs: readonly [string, Operand]
  readonly lhsView: View
  readonly rhs: readonly [string, Operand]
  readonly rhsView: View
  /** Columns of the result. */
  readonly columns: number
}

/** `segments`: 1, or the number of segments of the long dimension. */
export function tiledShrink(shrink: Shrink, segments: number, out: readonly [string, Operand]): Part {
  const { name, tile, lhs, lhsView, rhs, rhsView, columns } = shrink
  const [depth, tokens] = [lhs[1].cols, lhs[1].rows]
  const [rowTiles, columnTiles] = [ceilDiv(tokens, tile.blockM), ceilDiv(columns, tile.blockN)]
  const isSplit = segments === ceilDiv(depth, SEGMENT)
  return {
    name,
    workgroups: rowTiles * columnTiles * segments,
    operands: Object.fromEntries([lhs, rhs, out]),
    params: {
      [`${name}_row_tiles`]: rowTiles,
      [`${name}_column_tiles`]: columnTiles,
      [`${name}_depth`]: depth,
      [`${name}_rows`]: tokens,
    },
    wgsl: `
var<private> ${name}_segment: u32;
${product({
  name,
  tile,
  lhs: lhsView,
  rhs: rhsView,
  segment: isSplit ? undefined : SEGMENT,
  store: `if (m < P.${name}_rows) { ${out[0]}_put4(${name}_segment * P.${name}_rows + m, n, v); }`,
})}
fn ${name}(id: u32, tid: u32, item: u32) {
  let tiles = P.${name}_row_tiles * P.${name}_column_tiles;
  ${name}_segment = id / tiles;
  let m0 = id % P.${name}_row_tiles * ${tile.blockM}u;
  let n0 = id % tiles / P.${name}_row_tiles * ${tile.blockN}u;
  ${
    isSplit
      ? `let first = id / tiles * ${SEGMENT}u;
  ${name}_product(m0, n0, first, min(first + ${SEGMENT}u, P.${name}_depth), tid);`
      : `${name}_product(m0, n0, 0u, P.${name}_depth, tid);`
  }
}`,
    ...workgroupOf(tile),
  }
}

/** What runs on the tokens of the workgroup then: WGSL statements with `id`, `tid`, `item`, `first` and `last`. */
export type Finish = Omit<Prepare, 'params'>

/** `store` handles four columns of the result: v is out[m, n .. n + 3]. */
export function rowShrink(shrink: Shrink, out: readonly [string, Operand], store: string, finish?: Finish): Part {
  const { name, tile, lhs, lhsView, rhs, rhsView, columns } = shrink
  const [depth, tokens] = [lhs[1].cols, lhs[1].rows]
  return {
    name,
    workgroups: ceilDiv(tokens, tile.blockM),
    operands: { ...Object.fromEntries([lhs, rhs, out]), ...finish?.operands },
    params: { [`${name}_columns`]: columns, [`${name}_depth`]: depth, [`${name}_rows`]: tokens },
    helpers: finish?.helpers ?? [],
    wgsl: wgsl`
${product({ name, tile, lhs: lhsView, rhs: rhsView, segment: SEGMENT, store })}
fn ${name}(id: u32, tid: u32, item: u32) {
  let first = id * ${tile.blockM}u;
  let last = min(first + ${tile.blockM}u, P.${name}_rows);
  for (var n0 = 0u; n0 < P.${name}_columns; n0 += ${tile.blockN}u) {
    ${name}_product(first, n0, 0u, P.${name}_depth, tid);
  }
  ${finish?.statements}
}`,
    ...workgroupOf(tile),
  }
}
