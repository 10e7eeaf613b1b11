/**
 * Passes: what one dispatch computes, as plain data. The plan of a call lists them; lib/webgpu/wgsl/module.ts turns each into
 * a shader.
 */
import type { Matrix, NumberType, Output } from './gpu-call.js'

/** A matrix as an operand of a pass. */
export interface Operand {
  /** Null: the workspace of the call. */
  readonly buffer: GPUBuffer | null
  readonly byteOffset: number
  readonly dtype: NumberType | 'uint8' | 'int32'
  readonly rows: number
  readonly cols: number
  /** Elements from one row to the next. */
  readonly pitch: number
  readonly isWritten: boolean
  /** Whether a store adds to the old number. */
  readonly accumulate: boolean
  /** The rows of a call in a list. */
  readonly listed?: ListedRows
  /** Whether dropout drops elements: stores write 0 to them, and add nothing. */
  readonly drops?: boolean
}

/** Row r of an operand is row index[r] in memory. */
export interface ListedRows {
  /** [1, rows of the operand], int32, clamped; bound as `index`. */
  readonly index: Operand
  /** Rows in memory. */
  readonly rows: number
  /** [1, rows of the operand]: factors by which loads from each row are multiplied, bound as `scale`; null: 1. */
  readonly scale: Operand | null
}

export type Operands = Readonly<Record<string, Operand | null>>

/** WGSL; null or false: a helper that is not used. */
export type Helpers = readonly (string | null | false)[]

/** Work of one kind in a pass. A workgroup runs exactly one part. */
export interface Part {
  /** Prefix of the part's functions and parameters, unique in its pass. */
  readonly name: string
  readonly workgroups: number
  /** By the name that the shader uses; null: not used. Parts of a pass that use one name mean the same operand. */
  readonly operands: Operands
  /** Uniform parameters, u32. */
  readonly params?: Readonly<Record<string, number>>
  /** Uniform parameters, f32. */
  readonly floats?: Readonly<Record<string, number>>
  /**
   * WGSL that defines `fn NAME(id: u32, tid: u32, item: u32)`: workgroup `id` of this part, thread `tid` of THREADS. The
   * parameters are members of P. They are uniform where `item` is a parameter of the function, which those need that have a
   * barrier in a loop.
   */
  readonly wgsl: string
  /** WGSL that several parts may share; a pass contains each text once. */
  readonly helpers?: Helpers
  /** vec4f elements of workgroup memory for tiles of products, shared by all parts of a pass. */
  readonly tileLength?: number
  /** The least number of threads of a workgroup. Default: 256. A pass has the most that any of its parts requires. */
  readonly threads?: number
}

/** One dispatch. */
export type Pass = readonly Part[]

/** The passes of a call, in order, and the workspace that they share. */
export interface Plan {
  readonly passes: readonly Pass[]
  readonly workspaceBytes: number
}

export const bytesPer: Readonly<Record<Operand['dtype'], number>> = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  uint8: 1,
  int32: 4,
}

/** The operands that the accessors of an operand use, by name. */
export const usedBy = ({ listed }: Operand): Operands => (listed ? { index: listed.index, scale: listed.scale } : {})

export const bytesOf = ({ rows, cols, dtype }: Operand) => rows * cols * bytesPer[dtype]

export function input(matrix: Matrix, rows: number, cols: number): Operand {
  const { buffer, byteOffset, dtype, pitch } = matrix
  return { buffer, byteOffset, dtype, pitch, rows, cols, isWritten: false, accumulate: false }
}

export function output(matrix: Matrix | Output, rows: number, cols: number): Operand {
  const accumulate = 'accumulate' in matrix && matrix.accumulate
  return { ...input(matrix, rows, cols), isWritten: true, accumulate }
}

/** Contiguous numbers. */
export function dense(
  { buffer, byteOffset }: Pick<Operand, 'buffer' | 'byteOffset'>,
  rows: number,
  cols: number,
  dtype: Operand['dtype'] = 'float32',
): Operand {
  return { buffer, byteOffset, dtype, pitch: cols, rows, cols, isWritten: false, accumulate: false }
}

export const written = (operand: Operand): Operand => ({ ...operand, isWritten: true })

/** Rows first .. first + count - 1. */
export function rowsOf(operand: Operand, first: number, count: number): Operand {
  const { listed, byteOffset, pitch, dtype } = operand
  if (listed === undefined) return { ...operand, byteOffset: byteOffset + first * pitch * bytesPer[dtype], rows: count }
  const { index, scale } = listed
  const part = (of: Operand): Operand => ({
    ...of,
    byteOffset: of.byteOffset + first * bytesPer[of.dtype],
    cols: count,
  })
  return { ...operand, rows: count, listed: { ...listed, index: part(index), scale: scale && part(scale) } }
}

/** Operands in the workspace begin at multiples of this many bytes: the largest alignment that bindings may require. */
const ALIGNMENT = 256

/** Lays out the workspace of a call. */
export class Workspace {
  bytes = 0

  /** A contiguous matrix. */
  take(rows: number, cols: number, dtype: NumberType = 'float32'): Operand {
    const operand = dense({ buffer: null, byteOffset: this.bytes }, rows, cols, dtype)
    this.bytes += Math.ceil(bytesOf(operand) / ALIGNMENT) * ALIGNMENT
    return operand
  }
}

export const ceilDiv = (n: number, d: number) => Math.ceil(n / d)
