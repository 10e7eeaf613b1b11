/** Runs a case with an adapter per row through the public API. Child processes use this file, too. */
import type { LilySaved, RowsSaved, Tensor } from '../../lib/index.js'
import * as ops from './backend.js'
import type { RowsCase } from './cases.js'
import { roundAll, unpack } from './dtypes.js'
import { Operand } from './operands.js'
import { gaussian, randomFrom } from './random.js'
import { tokensOf } from './rows-reference.js'
import { type OperandName, operandTypes } from './run.js'

const KEPT = ['hidden', 'probabilities', 'weights'] as const
const PARAMETERS = ['a', 'router', 'b'] as const
const GRADIENTS = ['da', 'dRouter', 'db'] as const
export type Values = Partial<Record<(typeof KEPT)[number] | (typeof GRADIENTS)[number], Float32Array>>

/** Variations of a call that must not change its results. */
export interface HowRows {
  /** New outputs, or given ones that are accumulated into or overwritten. */
  outputs?: 'new' | 'add' | 'overwrite'
  /** Elements between the rows of all operands. */
  gap?: number
  /** Leading dimensions of x, y, dy and dx; the first may replace the offsets. */
  leading?: number[]
  isAsync?: boolean
}

export interface RowsResult {
  y: Float32Array
  dx: Float32Array
  /** By adapter. */
  each: Values[]
  /** What y, dx and the gradients of each adapter were before. */
  old: { y: Float32Array; dx: Float32Array; each: Values[] }
  /** Inputs that were written to, and operands whose padding was. */
  damaged: string[]
}

/** A matrix and its part that each adapter has. */
interface Stacked {
  rows: number
  cols: number
  /** First row and column, rows and columns. */
  parts: [row: number, col: number, rows: number, cols: number][]
}

function stacksOf({ adapters, dIn, dOut }: RowsCase): Record<(typeof PARAMETERS)[number], Stacked> {
  const ranks = adapters.map(({ rank }) => rank)
  const starts = ranks.map((_, k) => ranks.slice(0, k).reduce((sum, rank) => sum + rank, 0))
  const all = starts[starts.length - 1] + ranks[ranks.length - 1]
  const [{ routing, experts }] = adapters
  const below = (each: number, cols: number): Stacked => {
    return { rows: each * all, cols, parts: ranks.map((r, k) => [each * starts[k], 0, each * r, cols]) }
  }
  const beside = (rows: number): Stacked => {
    return { rows, cols: all, parts: ranks.map((r, k) => [0, starts[k], rows, r]) }
  }
  // Of logits: one for each adapter.
  const columns: Stacked = { rows: experts, cols: ranks.length, parts: ranks.map((_, k) => [0, k, experts, 1]) }
  return {
    a: below(1, dIn),
    router: routing === 'learned' ? columns : beside(experts),
    b: routing === 'lora' ? beside(dOut) : below(experts, dOut),
  }
}

function stack({ rows, cols, parts }: Stacked, matrices: readonly ArrayLike<number>[]): Float32Array {
  const result = new Float32Array(rows * cols)
  for (const [k, [row, col, height, width]] of parts.entries()) {
    for (let i = 0; i < height; i++)
      for (let j = 0; j < width; j++) result[(row + i) * cols + col + j] = matrices[k][i * width + j]
  }
  return result
}

function partsOf({ cols, parts }: Stacked, matrix: Float32Array): Float32Array[] {
  return parts.map(([row, col, height, width]) =>
    Float32Array.from({ length: height * width }, (_, i) => {
      return matrix[(row + Math.floor(i / width)) * cols + col + (i % width)]
    }),
  )
}

/** Some rows of a matrix. */
export function gather(matrix: Float32Array, cols: number, rows: readonly number[]): Float32Array {
  const result = new Float32Array(rows.length * cols)
  for (const [i, row] of rows.entries()) result.set(matrix.subarray(row * cols, (row + 1) * cols), i * cols)
  return result
}

/** The case of one adapter and its rows. */
export function alone(c: RowsCase, k: number): RowsCase {
  const { tokens: _, dIn, dOut, adapters, segments, mask, ...rest } = c
  const tokens = tokensOf(c, k)
  const own = Array.from(segments.adapterOf.keys()).filter((g) => segments.adapterOf[g] === k)
  const { offsets } = segments
  const ends =
    offsets && own.map((_, i) => own.slice(0, i + 1).reduce((sum, g) => sum + offsets[g + 1] - offsets[g], 0))
  const scale = segments.scale && Float32Array.from(own, (g) => segments.scale?.[g] ?? 1)
  return {
    ...rest,
    ...{ tokens: tokens.length, dIn, dOut, adapters: [adapters[k]] },
    x: gather(c.x, dIn, tokens),
    dy: gather(c.dy, dOut, tokens),
    of: new Int32Array(tokens.length),
    mask: mask && Uint8Array.from(tokens, (t) => mask[t]),
    scale: c.scale && Float32Array.from(tokens, (t) => c.scale?.[t] ?? 1),
    segments: { adapterOf: new Int32Array(own.length), scale, offsets: ends && Int32Array.of(0, ...ends) },
  }
}

/** The call of one adapter over its rows, an ordinary one unless it has factors. `old`: of the call with all adapters. */
export function runAlone(c: RowsCase, k: number, how: HowRows, old: RowsResult['old']): Promise<RowsResult> {
  const tokens = tokensOf(c, k)
  const { leading: _, ...rest } = how
  const own = { y: gather(old.y, c.dOut, tokens), dx: gather(old.dx, c.dIn, tokens), each: [old.each[k]] }
  return runCall(alone(c, k), rest, c.scale !== undefined, own)
}

export function runRows(c: RowsCase, how: HowRows = {}): Promise<RowsResult> {
  return runCall(c, how, true)
}

type Run = (...args: never[]) => Promise<object>

/** Forward and backward, and their Async forms. */
const FUNCTIONS: Record<'lora' | 'lily', [Run, Run, Run, Run]> = {
  lora: [ops.loraForward, ops.loraBackward, ops.loraForwardAsync, ops.loraBackwardAsync],
  lily: [ops.lilyForward, ops.lilyBackward, ops.lilyForwardAsync, ops.lilyBackwardAsync],
}

async function runCall(c: RowsCase, how: HowRows, hasRows: boolean, given?: RowsResult['old']): Promise<RowsResult> {
  const { adapters, tokens, dIn, dOut, segments, mask, precision } = c
  const { outputs = 'new', gap = 0, leading = [], isAsync = false } = how
  const [{ routing, experts, pool, activation, scaling }] = adapters
  const types = operandTypes(c)
  const stacks = stacksOf(c)
  const operands = new Map<OperandName, Operand>()
  const operand = (name: OperandName, rows: number, cols: number, values: ArrayLike<number>) => {
    const placed = new Operand(types[name], rows, cols, values, { gap, margin: gap })
    operands.set(name, placed)
    return placed
  }
  const flat = (name: OperandName, cols: number, values: ArrayLike<number>) =>
    operand(name, tokens, cols, values).tensor(...leading)
  const isGiven = outputs !== 'new'
  const oldOf = (name: OperandName, length: number) =>
    outputs === 'add'
      ? roundAll(types[name], gaussian(randomFrom(length), length))
      : new Float32Array(length).fill(outputs === 'overwrite' ? NaN : 0)
  const old = given ?? {
    y: oldOf('y', tokens * dOut),
    dx: oldOf('dx', tokens * dIn),
    each: adapters.map((_, k) =>
      Object.fromEntries(
        GRADIENTS.map((name, i) => {
          const [, , rows, cols] = stacks[PARAMETERS[i]].parts[k]
          return [name, oldOf(name, rows * cols)]
        }),
      ),
    ),
  }
  const parameters: Record<string, unknown> = {}
  const gradients: Record<string, unknown> = {}
  for (const [i, name] of PARAMETERS.entries()) {
    const of = adapters.map((adapter) => adapter[name] ?? [])
    if (name === 'router' && adapters[0].router === undefined) continue
    const { rows, cols } = stacks[name]
    parameters[name] = operand(name, rows, cols, stack(stacks[name], of)).tensor()
    const gradient = GRADIENTS[i]
    const before = stack(
      stacks[name],
      old.each.map((each) => each[gradient] ?? []),
    )
    if (isGiven) gradients[gradient] = operand(gradient, rows, cols, before).tensor()
  }
  const x = flat('x', dIn, c.x)
  const dy = flat('dy', dOut, c.dy)
  const y = isGiven ? flat('y', dOut, old.y) : undefined
  const dx = isGiven ? flat('dx', dIn, old.dx) : undefined

  const isLora = routing === 'lora'
  const accumulate = outputs !== 'overwrite'
  const ranks = adapters.map(({ rank }) => rank)
  const rankOffsets = [0, ...ranks.map((_, k) => ranks.slice(0, k + 1).reduce((sum, rank) => sum + rank, 0))]
  const numbers = adapters.flatMap(({ weights }) => Array.from(weights ?? []))
  const weights =
    routing === 'fixed' ? { data: Float32Array.from(numbers), shape: [adapters.length, experts] } : undefined
  const isDivided = hasRows || routing === 'sequence'
  const sequenceOffsets = leading.length > 1 || !isDivided ? undefined : segments.offsets
  const options = {
    ...{ scaling, precision, accumulate },
    ...(isLora ? {} : { routing, pool, activation, mask, weights }),
    ...(sequenceOffsets && { sequenceOffsets }),
    ...(hasRows && { rankOffsets, adapterOf: segments.adapterOf, scale: segments.scale }),
  }
  const [forward, backward] = FUNCTIONS[isLora ? 'lora' : 'lily'].slice(isAsync ? 2 : 0)
  const called = await forward({ x, y, ...parameters } as never, options as never)
  const { y: resultY, saved } = called as { y: Tensor; saved: LilySaved | RowsSaved }
  const calls = 'adapters' in saved ? saved.adapters : [saved]
  const each = calls.map((kept): Values => {
    const tensors = KEPT.map((name) => [name, kept[name]] as const)
    return Object.fromEntries(tensors.flatMap(([name, tensor]) => (tensor ? [[name, valuesOf(tensor)]] : [])))
  })
  const results = (await backward(
    { dy, dx, ...gradients } as never,
    saved as never,
    { accumulate } as never,
  )) as Record<string, Tensor | undefined>
  saved.dispose()
  const valueOf = (name: OperandName, tensor: Tensor | undefined) =>
    operands.get(name)?.values() ?? (tensor && valuesOf(tensor)) ?? new Float32Array()
  for (const [i, name] of GRADIENTS.entries()) {
    if (parameters[PARAMETERS[i]] === undefined) continue
    const parts = partsOf(stacks[PARAMETERS[i]], valueOf(name, results[name]))
    for (const [k, values] of parts.entries()) each[k][name] = values
  }
  return {
    y: valueOf('y', resultY),
    dx: valueOf('dx', results.dx),
    each,
    old,
    damaged: [...operands].flatMap(([name, placed]) => {
      const isOutput = name === 'y' || name === 'dx' || name in gradients
      return (isOutput ? placed.isPaddingUnchanged() : placed.isUnchanged()) ? [] : [name]
    }),
  }
}

const valuesOf = (tensor: Tensor) => unpack(tensor.dtype, tensor.data)
