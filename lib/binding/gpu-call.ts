/** Calls in the form that the binding of a GPUDevice takes: sizes, modes, and operands as regions of buffers. */
import type { Plan } from './gpu-pass.js'
import type * as slots from './slots.js'

type Name<Enumeration extends 'routing' | 'pool' | 'activation'> = keyof (typeof slots)[Enumeration]

/** Types of numbers in a buffer. Kernels compute in float32. */
export type NumberType = 'float32' | 'bfloat16' | 'float16'

/** Bytes of a buffer from an offset on. The offset is a multiple of the size of one element, and of nothing more. */
export interface Region {
  readonly buffer: GPUBuffer
  readonly byteOffset: number
}

/** A row-major matrix. */
export interface Matrix extends Region {
  readonly dtype: NumberType
  /** Elements from the start of one row to the start of the next. */
  readonly pitch: number
}

/** A matrix that a call writes. */
export interface Output extends Matrix {
  /** Whether the call adds to the old contents; otherwise it overwrites them and does not read them. */
  readonly accumulate: boolean
}

/** The sizes and modes of forward and backward; docs/math.md has the symbols. */
export interface Sizes {
  /** 'none': LoRA, whose b is [d_out, r]. */
  readonly routing: Name<'routing'>
  readonly pool: Name<'pool'>
  readonly activation: Name<'activation'>
  readonly scaling: number
  /** M */
  readonly tokens: number
  readonly dIn: number
  readonly dOut: number
  readonly rank: number
  readonly experts: number
  /** G; 1 with batch, token, uniform and learned routing, and for LoRA. */
  readonly groups: number
  /** n: an element of x is dropped if its random number of 16 bits is below it; 0: none is. */
  readonly dropout: number
}

/** The rows of a call in a list: token t is row index[t] of x, y, dy and dx. */
export interface Listed {
  /** [M], int32, ascending. Kernels clamp it to the rows that there are. */
  readonly index: Region
  /** Rows of x, y, dy and dx. */
  readonly rows: number
  /** [M], float32: c, a factor for each token; null: 1. */
  readonly scale: Region | null
}

/** What forward and backward read alike. */
interface Inputs extends Sizes {
  /** The rows of a call in a list; otherwise token t is row t. */
  readonly listed?: Listed
  /** [M, d_in] */
  readonly x: Matrix
  /** [r, d_in] */
  readonly a: Matrix
  /** [E, r]; [E, 1] with learned routing; null without a router. */
  readonly router: Matrix | null
  /** [E*r, d_out]; LoRA: [d_out, r]. */
  readonly b: Matrix
  /** [M], uint8: 0 drops a token from the pooling; null: all count. */
  readonly mask: Region | null
  /** [G + 1], int32, from 0 to M, ascending; null: one group. No group contains tokens before the first and after the last. */
  readonly sequenceOffsets: Region | null
  /** The words of seed and position, the low one first, signed or unsigned; null: no dropout. */
  readonly draw: readonly number[] | null
}

/** A forward call: y (+)= s h C. */
export interface ForwardCall extends Inputs {
  /**
   * [G + 1], int32: any numbers. The call writes them to `sequenceOffsets`, each as the largest of those up to it, from 0 to M.
   * Null: the contents of `sequenceOffsets` are valid.
   */
  readonly uncheckedOffsets: Region | null
  /** [M, d_out] */
  readonly y: Output
  /** [M, r], contiguous: written, and read by the call itself. Without a buffer it is not kept. */
  readonly hidden: Omit<Matrix, 'buffer'> & { readonly buffer: GPUBuffer | null }
  /** [M, E], float32, contiguous: written for backward; null: not kept, or no backward needs them. */
  readonly probabilities: Region | null
  /**
   * [G, E], float32, contiguous: read with fixed routing, otherwise written for backward; null: not kept, or LoRA, or token
   * routing.
   */
  readonly weights: Region | null
}

/** A backward call. Outputs that are null are not computed. */
export interface BackwardCall extends Inputs {
  /** [M, d_out] */
  readonly dy: Matrix
  readonly hidden: Matrix
  /** Kept by forward with token routing, and with a router and pool 'probabilities'. */
  readonly probabilities: Region | null
  /** Null with token routing, and for LoRA. */
  readonly weights: Region | null
  readonly dx: Output | null
  readonly da: Output | null
  readonly dRouter: Output | null
  readonly db: Output | null
  /** [G, E], float32: <B_e, D_g>; with fixed routing alone. */
  readonly dWeights: Output | null
  /**
   * float32, contiguous: the partial sums D of db for a later fold, in the place of db. With at most E groups and not
   * token routing: D_g [G, r, d_out]; otherwise one matrix for each expert, already weighted, [E, r, d_out].
   */
  readonly deferredDb: Region | null
}

/**
 * Calls over disjoint rows of one x and one y, dy and dx. The results are the same as from separate calls. Calls of one
 * kind whose operands are in the same buffers share their dispatches: stacked parameters, one block for all that forward keeps,
 * one upload for all indices, masks and factors.
 */
export interface RowsCall<Each extends ForwardCall | BackwardCall> {
  readonly calls: readonly (Each & { readonly listed: Listed })[]
  /** The rows that no call has, which become 0; null: none, or the output accumulates, or it is not computed. */
  readonly rest: Rest | null
}

/** Rows that become 0: row index[i] of `out`, for i < count. */
export interface Rest {
  /** [rows, cols]: y, or dx. */
  readonly out: Output
  readonly rows: number
  readonly cols: number
  /** [count], int32, clamped to the rows. */
  readonly index: Region
  readonly count: number
}

/** A call of a frozen linear layer: y (+)= x W^T + bias. If it is transposed: y (+)= x W + bias. */
export interface LinearCall {
  readonly transposed: boolean
  /** M */
  readonly tokens: number
  readonly dIn: number
  readonly dOut: number
  /** [M, d_in]; transposed: [M, d_out] */
  readonly x: Matrix
  /** [d_out, d_in] */
  readonly weight: Matrix
  /** As many elements as y has columns; null: none is added. */
  readonly bias: Matrix | null
  /** [M, d_out]; transposed: [M, d_in] */
  readonly y: Output
}

/** What a GPUDevice runs: a call, or the passes of work of the main package. */
export type GpuWork =
  | { readonly name: 'forward'; readonly call: ForwardCall }
  | { readonly name: 'backward'; readonly call: BackwardCall }
  | { readonly name: 'forwardRows'; readonly call: RowsCall<ForwardCall> }
  | { readonly name: 'backwardRows'; readonly call: RowsCall<BackwardCall> }
  | { readonly name: 'linear'; readonly call: LinearCall }
  | { readonly name: 'fold'; readonly call: FoldCall }
  | { readonly name: 'plan'; readonly call: Plan }

/** A fold of deferred gradients: db_e (+)= sum over layers and groups, in order, of w_ge D_g. */
export interface FoldCall {
  readonly experts: number
  readonly rank: number
  readonly dOut: number
  /** [E*r, d_out] */
  readonly db: Output
  readonly layers: readonly {
    /** The number of matrices: G, or E if `weights` is null. */
    readonly partials: number
    readonly matrices: Region
    /** [G, E], float32; null: one matrix for each expert, already weighted. */
    readonly weights: Region | null
  }[]
}
