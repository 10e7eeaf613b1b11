/** A checked forward call: its sizes and operands, and what it keeps for backward. */
import { bytesPerElement } from './dtype.js'
import { allocate } from './memory.js'
import type { Operand } from './operand.js'

/**
 * How tokens share the experts' weights: one pool for the whole `batch`, one for each `sequence`, none (`token`: every
 * token has its own), equal weights (`uniform`), or weights that the caller gives (`fixed`).
 */
export type Routing = 'batch' | 'sequence' | 'token' | 'uniform' | 'fixed'

/** What a pool is made of: the mean of its tokens' probabilities, or the softmax of the sum of their logits. */
export type Pool = 'probabilities' | 'logits'

/** Applied to x a^T. */
export type Activation = 'none' | 'relu'

/**
 * `default` may round operands of 16-bit matrix units, `high` rounds nothing but 16-bit results, `tf32` lets float32
 * matrix units use TF32. The cpu backend always computes as `high`.
 */
export type Precision = 'default' | 'high' | 'tf32'

/** The parts of `kept` begin on cache lines. */
const ALIGNMENT = 64

export class Problem {
  mask: Uint8Array | null = null
  sequenceOffsets: Int32Array | null = null
  /** [G, E] at `weightsOffset` bytes: the caller's with fixed routing, else a part of `kept`. */
  weights: Float32Array | null = null
  weightsOffset = 0
  /** One block for hidden [M, r], probabilities [M, E] and weights [G, E]; null without `save`. */
  kept: Float32Array | null = null
  /** Bytes from the start of `kept`; -1: there are none. */
  probabilitiesOffset = -1

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
  ) {}

  get tokens(): number {
    return this.x.rows
  }

  get dIn(): number {
    return this.x.columns
  }

  get rank(): number {
    return this.a.rows
  }

  /** Backward needs each token's probabilities only where no pool of logits stands for them. */
  get keepsProbabilities(): boolean {
    return this.router !== null && (this.routing === 'token' || this.pool === 'probabilities')
  }

  /** The operation makes weights itself: all routings but token, and fixed, which has the caller's. */
  get makesWeights(): boolean {
    return this.routing === 'batch' || this.routing === 'sequence' || this.routing === 'uniform'
  }

  /** The weights by themselves. */
  get weightsView(): Float32Array | null {
    const begin = this.weightsOffset / Float32Array.BYTES_PER_ELEMENT
    return this.weights?.subarray(begin, begin + this.groups * this.experts) ?? null
  }

  /** A deferred gradient of b has one slab for each group, unless one for each expert is less. */
  get defersPerGroup(): boolean {
    return this.routing !== 'token' && this.groups <= this.experts
  }

  get deferredSlabs(): number {
    return this.defersPerGroup ? this.groups : this.experts
  }

  /** Allocates what forward leaves for backward. */
  keep(): void {
    const { tokens, rank, experts, groups } = this
    let bytes = aligned(tokens * rank * bytesPerElement(this.x.dtype))
    if (this.keepsProbabilities) {
      this.probabilitiesOffset = bytes
      bytes = aligned(bytes + tokens * experts * Float32Array.BYTES_PER_ELEMENT)
    }
    if (this.makesWeights) {
      this.weightsOffset = bytes
      bytes += groups * experts * Float32Array.BYTES_PER_ELEMENT
    }
    this.kept = allocate('saved', 'float32', bytes / Float32Array.BYTES_PER_ELEMENT) as Float32Array
    if (this.makesWeights) this.weights = this.kept
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}
