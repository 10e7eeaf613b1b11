/**
 * The expanding product: tokens times the rows of a matrix, with columns enough for a workgroup for each tile. Symbols as in
 * docs/math.md.
 *
 *     out[t, n] (+)= value(sum_k lhs[t, k] w[k, n])
 *
 *     y += s h C;  y += s u B;  dx += dh A;  y += x W^T + bias;  dx += dy W
 *
 * One pass: a workgroup for each tile of out, which loads out if it adds to it.
 */
import { ceilDiv, type Helpers, type Operand, type Operands, type Part } from '../../binding/gpu-pass.js'
import { product, type Tile, type View, workgroupOf } from './product.js'
import { wgsl } from './text.js'

export interface Expand {
  readonly name: string
  readonly tile: Tile
  readonly lhs: View
  readonly rhs: View
  /** The operands of both views. */
  readonly operands: Operands
  /** The summed dimension. */
  readonly depth: number
  readonly out: readonly [string, Operand]
  /** WGSL expression of four columns of the result: `v` are the sums of row m, columns n .. n + 3. */
  readonly value: string
  /** WGSL statements that run first; `id` and `tid` are defined. */
  readonly prepare?: Prepare | undefined
}

/** What a part does before its main work; `workgroups` is the least number that must run. */
export interface Prepare {
  readonly statements: string
  readonly operands: Operands
  readonly helpers: Helpers
  readonly params: Readonly<Record<string, number>>
}

export function expand(e: Expand): Part {
  const { name, tile, out, prepare } = e
  const [rowTiles, columnTiles] = [ceilDiv(out[1].rows, tile.blockM), ceilDiv(out[1].cols, tile.blockN)]
  // Without tokens one workgroup still runs `prepare`, which may write results.
  const workgroups = Math.max(rowTiles * columnTiles, prepare === undefined ? 0 : 1)
  return {
    name,
    workgroups,
    operands: { ...e.operands, [out[0]]: out[1], ...prepare?.operands },
    params: { [`${name}_row_tiles`]: Math.max(rowTiles, 1), [`${name}_depth`]: e.depth, ...prepare?.params },
    helpers: prepare?.helpers ?? [],
    wgsl: wgsl`
${product({ name, tile, lhs: e.lhs, rhs: e.rhs, store: `${out[0]}_put4(m, n, ${e.value});` })}
fn ${name}(id: u32, tid: u32, item: u32) {
  ${prepare?.statements}
  let m0 = id % P.${name}_row_tiles * ${tile.blockM}u;
  let n0 = id / P.${name}_row_tiles * ${tile.blockN}u;
  ${name}_product(m0, n0, 0u, P.${name}_depth, tid);
}`,
    ...workgroupOf(tile),
  }
}
