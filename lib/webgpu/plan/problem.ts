/** What the plans of forward and backward have in common: the operands that both read, and the form of the computation. */
import type { BackwardCall, ForwardCall } from '../../binding/gpu-call.js'
import { dense, input, type Operand, type Part } from '../../binding/gpu-pass.js'
import { withDropout } from '../wgsl/dropout.js'
import type { Common } from '../wgsl/module.js'
import { rowsAreDepth, rowsAreOuter, type View } from '../wgsl/product.js'

export class Problem {
  readonly x: Operand
  readonly a: Operand
  readonly router: Operand | null
  /** [E, 1]: the logits of a learned mixture. */
  readonly mixture: Operand | null
  readonly b: Operand
  readonly mask: Operand | null
  readonly offsets: Operand | null
  /** [1, M]: c; null: 1. */
  readonly scale: Operand | null

  constructor(readonly call: ForwardCall | BackwardCall) {
    const { tokens, dIn, dOut, rank, experts, groups, mask, sequenceOffsets, listed } = call
    this.scale = listed?.scale ? dense(listed.scale, 1, tokens) : null
    this.x = this.inList(input(call.x, tokens, dIn))
    this.a = input(call.a, rank, dIn)
    const isLearned = call.routing === 'learned'
    this.router = call.router === null || isLearned ? null : input(call.router, experts, rank)
    this.mixture = call.router === null || !isLearned ? null : input(call.router, experts, 1)
    this.b = this.isLora ? input(call.b, dOut, rank) : input(call.b, experts * rank, dOut)
    this.mask = mask === null ? null : dense(mask, 1, tokens, 'uint8')
    this.offsets = sequenceOffsets === null ? null : dense(sequenceOffsets, 1, groups + 1, 'int32')
  }

  /** An operand with a row for each token, in memory of the caller. With `scale` each loaded value is multiplied by c. */
  inList(operand: Operand, scale: Operand | null = null): Operand {
    const { listed, tokens } = this.call
    if (listed === undefined) return operand
    return { ...operand, listed: { index: dense(listed.index, 1, tokens, 'int32'), rows: listed.rows, scale } }
  }

  /** The same view of x with dropout, if the call has it. */
  viewOfX(view: View): View {
    return this.call.draw === null ? view : { ...view, drops: true }
  }

  /** The expression of sums over the kept elements of x, or of their gradients, with the factor of dropout. */
  afterDropout(sum: string): string {
    return this.call.draw === null ? sum : `P.dropout_scale * ${sum}`
  }

  /** A part that uses such a view or expression, or writes dx. */
  dropping(part: Part): Part {
    const { dropout, draw } = this.call
    return draw === null ? part : withDropout(part, dropout, draw)
  }

  get isLora(): boolean {
    return this.call.routing === 'none'
  }

  /** Whether each token has weights of its own, so the products run over all E r rows of B; otherwise over the rows of C. */
  get isPerToken(): boolean {
    return this.call.routing === 'token' || this.offsets !== null
  }

  /** Whether w is a mean of probabilities or a softmax of summed logits. */
  get isPooled(): boolean {
    return this.router !== null && this.call.routing !== 'token'
  }

  get poolsLogits(): boolean {
    return this.isPooled && this.call.pool === 'logits'
  }

  /** Rows of the small matrix of the products with d_out: r of C, or E r of B. */
  get products(): number {
    const { rank, experts } = this.call
    return this.isPerToken ? experts * rank : rank
  }

  /** LoRA's b as C: its rows are the columns of C. */
  get expandView(): View {
    return this.isLora ? rowsAreOuter('b') : rowsAreDepth(this.isPerToken ? 'b' : 'c')
  }

  get shrinkView(): View {
    return this.isLora ? rowsAreDepth('b') : rowsAreOuter(this.isPerToken ? 'b' : 'c')
  }

  get common(): Common {
    const { tokens, dIn, dOut, rank, experts, groups, scaling, activation } = this.call
    return {
      params: {
        tokens,
        d_in: dIn,
        d_out: dOut,
        rank,
        experts,
        groups,
        relu: activation === 'relu' ? 1 : 0,
        logits: this.poolsLogits || this.mixture !== null ? 1 : 0,
      },
      floats: { scaling },
    }
  }
}

/** u = w(t) (x) h, as the operand of an expand (rows are outer indices) or of an outer product (rows are k). */
export const uView = (along: 'k' | 'outer'): View => ({
  along,
  four:
    along === 'k'
      ? 'vec4f(u(o, k), u(o + 1u, k), u(o + 2u, k), u(o + 3u, k))'
      : 'vec4f(u(k, o), u(k, o + 1u), u(k, o + 2u), u(k, o + 3u))',
})

export const u = `
fn u(t: u32, j: u32) -> f32 { return token_weights1(t, j / P.rank) * hidden1(t, j % P.rank); }`

/** A view of rows of tokens for an outer product, zero for those that the condition on token `k` leaves out. */
export const onlyTokens = (name: string, condition: string | null): View =>
  condition === null ? rowsAreDepth(name) : where(rowsAreDepth(name), condition)

export const where = (view: View, condition: string): View => ({
  ...view,
  four: `select(vec4f(), ${view.four}, ${condition})`,
})
