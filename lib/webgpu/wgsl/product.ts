/**
 * The product of two matrices, in tiles: the building block of shrink, expand and outer.
 *
 *     out[m, n] = sum_k lhs[m, k] rhs[k, n],  k from first to last
 *
 * Each workgroup owns BLOCK_M x BLOCK_N of out and loads both operands in tiles of BLOCK_K into workgroup memory, as vec4f
 * along m and along n. Each of the first threads owns THREAD_M x THREAD_N sums in registers, as vec4f along n; all threads
 * load. Quads of rows and columns of one thread are spread over the tile, so that neighbouring threads store neighbouring
 * columns. The loops over k and over the sums are not unrolled in the text, which would multiply the time that a software
 * adapter takes to compile it.
 *
 * If dropout drops elements of an operand, their mask is computed once for every eight elements of a tile, in workgroup memory: that
 * of a step of k while the sums of the step before are added.
 *
 * With `segment` the sums of every `segment` elements of k are added separately and then in order. A workgroup for each
 * segment, whose results a later pass adds in order, gives the same bits, so they do not depend on how the work is split.
 */
import type { Part } from '../../binding/gpu-pass.js'
import { wgsl } from './text.js'

export interface Tile {
  readonly blockM: number
  readonly blockN: number
  readonly threadM: number
  readonly threadN: number
  readonly blockK: number
}

/** A matrix as an operand of a product. */
export interface View {
  /** The WGSL expression of four numbers: outer index `o` .. o + 3 (of m or n) at `k`. */
  readonly four: string
  /** The index along which neighbouring elements are neighbours in memory. */
  readonly along: 'k' | 'outer'
  /** Whether dropout drops elements: the matrix is x, and the index of `along` counts its columns. */
  readonly drops?: boolean
}

/** The view of a matrix whose rows are outer indices. */
export const rowsAreOuter = (name: string): View => ({ four: `${name}4t(o, k)`, along: 'k' })

/** The view of a matrix whose rows are k. */
export const rowsAreDepth = (name: string): View => ({ four: `${name}4(k, o)`, along: 'outer' })

interface Product {
  readonly name: string
  readonly tile: Tile
  readonly lhs: View
  readonly rhs: View
  readonly segment?: number | undefined
  /** WGSL statements that store four columns: `v` is out[m, n .. n + 3]. */
  readonly store: string
}

/** Quads from the start of one k to the next in workgroup memory; one more than necessary, against bank conflicts. */
const pitchOf = (block: number) => block / 4 + 1

const tileLength = ({ blockM, blockN, blockK }: Tile): number => (pitchOf(blockM) + pitchOf(blockN)) * blockK

/** Workgroup memory of a tile. */
export const tileBytes = (tile: Tile): number => tileLength(tile) * 16

/** Threads that have sums. */
export const tileThreads = ({ blockM, blockN, threadM, threadN }: Tile): number =>
  (blockM / threadM) * (blockN / threadN)

/** What a pass with a product of this tile requires of its workgroups. */
export const workgroupOf = (tile: Tile): Pick<Part, 'tileLength' | 'threads'> => ({
  tileLength: tileLength(tile),
  threads: tileThreads(tile),
})

/** Defines `fn NAME_product(m0, n0, first, last, tid)`; first and last must be uniform. */
export function product({ name, tile, lhs, rhs, segment, store }: Product): string {
  const { blockM, blockN, threadM, threadN, blockK } = tile
  const across = blockN / threadN
  const down = blockM / threadM
  const [pitchL, pitchR] = [pitchOf(blockM), pitchOf(blockN)]
  const startR = pitchL * blockK
  const quadsM = Array.from({ length: threadM / 4 }, (_, i) => i)
  const quadsN = Array.from({ length: threadN / 4 }, (_, j) => j)
  const rows = quadsM.flatMap((i) => [0, 1, 2, 3].map((c) => ({ i, c })))
  const sums = rows.flatMap(({ i, c }) => quadsN.map((j) => ({ i, c, j, sum: `a${i * 4 + c}_${j}` })))
  // At most one of them is x.
  const mask = lhs.drops
    ? maskOf(name, lhs, blockM, blockK, 'm0')
    : rhs.drops && maskOf(name, rhs, blockN, blockK, 'n0')
  const kept = ({ drops }: View, four: string) => (drops && mask ? `select(vec4f(), ${four}, ${mask.flags})` : four)
  const fill = (view: View, side: string, block: number, start: number, pitch: number, origin: string) => `
    for (var i = tid; i < ${(block / 4) * blockK}u; i += THREADS) {
      let q = ${view.along === 'k' ? `i / ${blockK}u` : `i % ${block / 4}u`};
      let s = ${view.along === 'k' ? `i % ${blockK}u` : `i / ${block / 4}u`};
      tile[${start}u + s * ${pitch}u + q] = ${kept(view, `${name}_${side}(${origin} + 4u * q, k0 + s)`)};
    }`
  const each = (text: (sum: string) => string) => sums.map(({ sum }) => text(sum)).join(' ')
  return wgsl`${mask && mask.declaration}
fn ${name}_lhs(o: u32, k: u32) -> vec4f { return ${lhs.four}; }
fn ${name}_rhs(o: u32, k: u32) -> vec4f { return ${rhs.four}; }
fn ${name}_store(m: u32, n: u32, v: vec4f) { ${store} }
fn ${name}_product(m0: u32, n0: u32, first: u32, last: u32, tid: u32) {
  let tx = tid % ${across}u;
  let ty = tid / ${across}u;
  ${each((sum) => `var ${sum} = vec4f();`)}
  ${segment && each((sum) => `var t${sum} = vec4f();`)}${mask && `${mask.form('first')} workgroupBarrier();`}
  for (var k0 = first; k0 < last; k0 += ${blockK}u) {${fill(lhs, 'lhs', blockM, 0, pitchL, 'm0')}${fill(rhs, 'rhs', blockN, startR, pitchR, 'n0')}
    workgroupBarrier();${mask && `if (k0 + ${blockK}u < last) { ${mask.form(`(k0 + ${blockK}u)`)} }`}
    if (ty < ${down}u) {
      for (var s = 0u; s < min(${blockK}u, last - k0); s++) {
        ${quadsM.map((i) => `let l${i} = tile[s * ${pitchL}u + ty + ${i * down}u];`).join(' ')}
        ${quadsN.map((j) => `let r${j} = tile[${startR}u + s * ${pitchR}u + tx + ${j * across}u];`).join(' ')}
        ${sums.map(({ i, c, j, sum }) => `${sum} = fma(vec4f(l${i}[${c}]), r${j}, ${sum});`).join(' ')}
      }
    }
    workgroupBarrier();${
      segment &&
      `
    if ((k0 + ${blockK}u) % ${segment}u == 0u) { ${each((sum) => `t${sum} += ${sum}; ${sum} = vec4f();`)} }`
    }
  }
  ${segment && each((sum) => `${sum} += t${sum};`)}
  if (ty < ${down}u) {
    for (var i = 0u; i < ${sums.length}u; i++) {
      var v: vec4f;
      switch (i) { ${sums.map(({ sum }, i) => `${i === 0 ? 'default' : `case ${i}u`}: { v = ${sum}; }`).join(' ')} }
      let row = i / ${quadsN.length}u;
      ${name}_store(m0 + 4u * (ty + row / 4u * ${down}u) + row % 4u, n0 + 4u * (tx + i % ${quadsN.length}u * ${across}u), v);
    }
  }
}`
}

/** The mask of x in one step of k: a word per eight columns of a token, the code that forms the words, and quad q at s. */
function maskOf(name: string, { along }: View, block: number, blockK: number, origin: string) {
  const [tokens, columns] = along === 'k' ? [block, blockK] : [blockK, block]
  const eights = columns / 8
  const word = (token: string, eight: string) => `${name}_kept[(${token}) * ${eights}u + ${eight}]`
  const form = (k: string) => {
    const [token, column] = along === 'k' ? [origin, k] : [k, origin]
    return `
    for (var i = tid; i < ${tokens * eights}u; i += THREADS) {
      ${name}_kept[i] = kept_bits(${token} + i / ${eights}u, ${column} / 8u + i % ${eights}u);
    }`
  }
  const fourTokens = [0, 1, 2, 3].map((i) => word(`4u * q + ${i}u`, 's / 8u')).join(', ')
  const flags =
    along === 'k'
      ? `flags(vec4u(${fourTokens}), vec4u(s % 8u))`
      : `flags(vec4u(${word('s', 'q / 2u')}), vec4u(q % 2u * 4u) + vec4u(0u, 1u, 2u, 3u))`
  return { declaration: `\nvar<workgroup> ${name}_kept: array<u32, ${tokens * eights}>;`, form, flags }
}
