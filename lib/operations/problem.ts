/** A checked forward call: its sizes, its modes and its operands. */
import { bytesPerElement, type DType } from '../base/dtype.js'
import { isHostMemory } from '../memory/operand-memory.js'
import type { Operand, Part } from '../memory/operand.js'

/**
 * How tokens share the weights w of the experts: pooled over the whole `batch` or over each `sequence`, computed for
 * each `token`, equal for all experts (`uniform`), given by the caller (`fixed`), or the softmax of logits that are
 * parameters (`learned`).
 */
export type Routing = (typeof ROUTINGS)[number]

export const ROUTINGS = ['batch', 'sequence', 'token', 'uniform', 'fixed', 'learned'] as const

/** Statistic that pools tokens: the mean of their probabilities, or the softmax of the sum of their logits. */
export type Pool = 'probabilities' | 'logits'

/** The function phi in h = phi(x a^T): the identity or ReLU. */
export type Activation = 'none' | 'relu'

/**
 * With `default`, the operands of 16-bit matrix units may be rounded to the type of x. `high` has an effect if the
 * parameters are float32 and x is not: only y and dx are rounded, and saved.hidden is float32. `tf32` has an effect if x is
 * float32: CUDA devices may round operands to TF32, and the CPU to two terms of bfloat16 where it has AMX, from rank 128 on.
 * Infinities may become NaN in two terms. Elsewhere it is `default`.
 */
export type Precision = 'default' | 'high' | 'tf32'

/** Alignment in bytes of the parts of a block: a cache line. */
const ALIGNMENT = 64

/** The small operands of a call: a copy on the host, or memory of the caller on the device. */
export interface Small {
  readonly mask: Part | null
  readonly sequenceOffsets: Part | null
  readonly weights: Part | null
  /** Those that are in device memory of the caller. */
  readonly deviceSources: readonly Operand[]
}

export const NOTHING_SMALL: Small = { mask: null, sequenceOffsets: null, weights: null, deviceSources: [] }

export class Problem {
  readonly tokens: number
  readonly dIn: number
  readonly rank: number
  /** The type of x, or float32 with precision `high`, which computes the gradients of float32 parameters from it. */
  readonly hiddenDtype: DType
  /** The sequence offsets if they are in device memory: the host does not read them, so they may be any numbers. */
  readonly uncheckedOffsets: Part | null
  /** Whether a deferred gradient of b has one partial sum per group; otherwise it has one per expert. */
  readonly defersPerGroup: boolean
  /** The number of partial sums in a deferred gradient of b. */
  readonly deferredPartials: number
  /** By the positions of `size` in binding/slots.ts, as far as forward and backward have them. */
  readonly sizes: readonly number[]

  constructor(
    /** `none`: LoRA. */
    readonly routing: Routing | 'none',
    readonly pool: Pool,
    readonly activation: Activation,
    readonly precision: Precision,
    readonly scaling: number,
    readonly x: Operand,
    readonly a: Operand,
    readonly router: Operand | null,
    readonly b: Operand,
    readonly dOut: number,
    readonly experts: number,
    readonly groups: number,
    readonly small: Small,
    /** The threshold of dropout; 0: none. */
    readonly dropout: number,
  ) {
    const { rows: tokens, columns: dIn } = x
    const rank = a.rows
    const isLora = routing === 'none'
    this.tokens = tokens
    this.dIn = dIn
    this.rank = rank
    this.hiddenDtype = precision === 'high' && a.dtype === 'float32' ? 'float32' : x.dtype
    const { sequenceOffsets: offsets } = small
    this.uncheckedOffsets = offsets === null || isHostMemory(offsets.memory) ? null : offsets
    this.defersPerGroup = routing !== 'token' && groups <= experts
    this.deferredPartials = this.defersPerGroup ? groups : experts
    this.sizes = [
      1,
      tokens,
      dIn,
      dOut,
      rank,
      experts,
      groups,
      groups + 1,
      isLora ? dOut : experts * rank,
      isLora ? rank : dOut,
      this.deferredPartials,
      rank * dOut,
      routing === 'learned' ? 1 : rank,
      4,
    ]
  }

  /** Whether backward needs the probabilities of each token: token routing, and pooled probabilities. */
  get keepsProbabilities(): boolean {
    const pools = this.routing === 'batch' || this.routing === 'sequence'
    return this.routing === 'token' || (pools && this.pool === 'probabilities')
  }

  /** Whether the operation computes the weights: all routings but token, and fixed, whose weights the caller gives. */
  get computesWeights(): boolean {
    return this.routing !== 'token' && this.routing !== 'fixed' && this.routing !== 'none'
  }

  /** Bytes from the start of the kept block to the probabilities, which follow hidden. */
  get probabilitiesOffset(): number {
    return aligned(this.tokens * this.rank * bytesPerElement(this.hiddenDtype))
  }

  /** Bytes from the start of the kept block to the weights. */
  get weightsOffset(): number {
    const offset = this.probabilitiesOffset
    if (!this.keepsProbabilities) return offset
    return aligned(offset + this.tokens * this.experts * Float32Array.BYTES_PER_ELEMENT)
  }

  /** Bytes of the block that forward keeps for backward: hidden [M, r], probabilities [M, E] and weights [G, E]. */
  get keptBytes(): number {
    const offset = this.weightsOffset
    return this.computesWeights ? offset + this.groups * this.experts * Float32Array.BYTES_PER_ELEMENT : offset
  }

  /** The operands of the caller that the kernels read. */
  get operands(): (Operand | null)[] {
    return [this.x, this.a, this.router, this.b, ...this.small.deviceSources]
  }
}

/** Bytes rounded up to the alignment of the parts of a block. */
export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}
