/** What the plans of forward and backward have in common: the operands that both read, and the form of the computation. */
import { fail } from '../../base/errors.js'
import type { BackwardCall, ForwardCall } from '../../binding/gpu-call.js'
import { dense, input, type Operand } from '../../binding/gpu-pass.js'
import type { Common } from '../wgsl/module.js'
import { rowsAreDepth, rowsAreOuter, type View } from '../wgsl/product.js'

/** Fails for what the kernels do not implement yet. */
function refuseUnsupported(call: ForwardCall | BackwardCall): void {
  const name = call.dropout > 0 ? 'dropout' : call.routing === 'learned' ? 'routing' : 'needs'
  if (name === 'needs' && !('dWeights' in call && call.dWeights !== null)) return
  fail('ERR_LILY_ARGUMENT', name, 'is not implemented on a GPUDevice yet')
}

export class Problem {
  readonly x: Operand
  readonly a: Operand
  readonly router: Operand | null
  readonly b: Operand
  readonly mask: Operand | null
  readonly offsets: Operand | null
  /** [1, M]: c; null: 1. */
  readonly scale: Operand | null

  constructor(readonly call: ForwardCall | BackwardCall) {
    refuseUnsupported(call)
    const { tokens, dIn, dOut, rank, experts, groups, mask, sequenceOffsets, listed } = call
    this.scale = listed?.scale ? dense(listed.scale, 1, tokens) : null
    this.x = this.inList(input(call.x, tokens, dIn))
    this.a = input(call.a, rank, dIn)
    this.router = call.router === null ? null : input(call.router, experts, rank)
    this.b = this.isLora ? input(call.b, dOut, rank) : input(call.b, experts * rank, dOut)
    this.mask = mask === null ? null : dense(mask, 1, tokens, 'uint8')
    this.offsets = sequenceOffsets === null ? null : dense(sequenceOffsets, 1, groups + 1, 'int32')
  }

  /** An operand with a row for each token, in memory of the caller. With `scale` what is loaded is multiplied by c. */
  inList(operand: Operand, scale: Operand | null = null): Operand {
    const { listed, tokens } = this.call
    if (listed === undefined) return operand
    return { ...operand, listed: { index: dense(listed.index, 1, tokens, 'int32'), rows: listed.rows, scale } }
  }

  get isLora(): boolean {
    return this.call.routing === 'none'
  }

  /** Whether each token has weights of its own, so the products run over all E r rows of B; otherwise over those of C. */
  get isPerToken(): boolean {
    return this.call.routing === 'token' || this.offsets !== null
  }

  /** Whether w is a mean of probabilities or a softmax of summed logits. */
  get isPooled(): boolean {
    return this.call.router !== null && this.call.routing !== 'token'
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
        logits: this.poolsLogits ? 1 : 0,
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

export const where = ({ four, along }: View, condition: string): View => ({
  four: `select(vec4f(), ${four}, ${condition})`,
  along,
})
