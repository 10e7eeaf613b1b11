/** A checked forward call: its sizes and operands, and what it keeps for backward. */
import { bytesPerElement, type DType } from '../base/dtype.js'
import { native } from '../binding/native.js'
import { allocate } from '../memory/allocate.js'
import type { DeviceMemory } from '../memory/device-memory.js'
import { isDeviceMemory, isHostMemory, type Operand, type OperandMemory, type Part } from '../memory/operand.js'
import type { Located, Placement } from '../memory/placement.js'

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
 * `default` may round what 16-bit matrix units multiply to the type of x. `high` matters where parameters are float32
 * and x is not: only y and dx are rounded, and saved.hidden is float32. `tf32` lets float32 matrix units use TF32.
 */
export type Precision = 'default' | 'high' | 'tf32'

/** The parts of a block begin on cache lines. */
const ALIGNMENT = 64

const NONE: Operand[] = []

export class Problem {
  /** The small operands: what the caller has in device memory, else a copy. */
  mask: Part | null = null
  sequenceOffsets: Part | null = null
  /** [G, E]: the caller's with fixed routing, else a part of `kept`. */
  weights: Part | null = null
  /** The small operands that are the caller's, in device memory. */
  sources: Operand[] = NONE
  /** One block for the copies of the small operands on a device. */
  staged: DeviceMemory | null = null
  /** One block for hidden [M, r], probabilities [M, E] and weights [G, E]; null without `save`. */
  kept: OperandMemory | null = null
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

  /** The type of x, unless precision `high` keeps what gradients in float32 are made of. */
  get hiddenDtype(): DType {
    return this.precision === 'high' && this.a.dtype === 'float32' ? 'float32' : this.x.dtype
  }

  /** Backward needs each token's probabilities only where no pool of logits stands for them. */
  get keepsProbabilities(): boolean {
    return this.router !== null && (this.routing === 'token' || this.pool === 'probabilities')
  }

  /** The operation makes weights itself: all routings but token, and fixed, which has the caller's. */
  get makesWeights(): boolean {
    return this.routing === 'batch' || this.routing === 'sequence' || this.routing === 'uniform'
  }

  /** A deferred gradient of b has one partial sum for each group, unless one for each expert is less. */
  get defersPerGroup(): boolean {
    return this.routing !== 'token' && this.groups <= this.experts
  }

  get deferredPartials(): number {
    return this.defersPerGroup ? this.groups : this.experts
  }

  /** All that is in device memory. */
  get located(): (Located | null)[] {
    const kept = this.kept !== null && isDeviceMemory(this.kept) ? this.kept : null
    return [this.x, this.a, this.router, this.b, ...this.sources, this.staged, kept]
  }

  /** Allocates what forward leaves for backward. */
  keep(placement: Placement | null): void {
    const { tokens, rank, experts, groups } = this
    let bytes = aligned(tokens * rank * bytesPerElement(this.hiddenDtype))
    let weightsOffset = 0
    if (this.keepsProbabilities) {
      this.probabilitiesOffset = bytes
      bytes = aligned(bytes + tokens * experts * Float32Array.BYTES_PER_ELEMENT)
    }
    if (this.makesWeights) {
      weightsOffset = bytes
      bytes += groups * experts * Float32Array.BYTES_PER_ELEMENT
    }
    this.kept = allocate('saved', 'float32', bytes / Float32Array.BYTES_PER_ELEMENT, placement)
    if (this.makesWeights) this.weights = { memory: this.kept, byteOffset: weightsOffset }
  }

  /** Copies the small operands that are on the host to the device, in one piece. */
  stage(placement: Placement): void {
    const names = (['mask', 'sequenceOffsets', 'weights'] as const).filter((name) => {
      const part = this[name]
      return part !== null && isHostMemory(part.memory)
    })
    if (names.length === 0) return
    const parts = names.map((name) => {
      const { buffer, byteOffset, byteLength } = this[name]?.memory as ArrayBufferView
      return new Uint8Array(buffer, byteOffset, byteLength)
    })
    let bytes = 0
    const offsets = parts.map(({ byteLength }) => (bytes = aligned(bytes + byteLength)) - aligned(byteLength))
    const all = new Uint8Array(bytes)
    for (const [i, part] of parts.entries()) all.set(part, offsets[i])
    const memory = placement.allocate('options', bytes)
    const { device, cudaStream } = placement.stream
    placement.run(() => {
      native.upload(device, memory.handle, 0, all, cudaStream)
    })
    this.staged = memory
    for (const [i, name] of names.entries()) this[name] = { memory, byteOffset: offsets[i] }
  }

  /** Lets go of the memory of its own. */
  dispose(): void {
    if (this.kept !== null && isDeviceMemory(this.kept)) this.kept.release()
    this.staged?.release()
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}
