/**
 * Calls in the form that drivers take: a kind of call, its numbers, and its operands in the order of the kind's table. One
 * loop writes them for the addon and for WebAssembly, one for a GPUDevice.
 */
import type { DType } from '../base/dtype.js'
import type * as gpuCall from '../binding/gpu-call.js'
import { native, type Memory } from '../binding/native.js'
import {
  access,
  activation,
  adamwFields,
  adamwItemFields,
  adapterFields,
  attentionFields,
  backend,
  dtype as dtypes,
  elementwiseFields,
  foldFields,
  linearFields,
  matmulFields,
  pool,
  placementFields,
  precision,
  routing,
  rowsFields,
  rowsItemFields,
  size,
  slotFields,
} from '../binding/slots.js'
import { slotAt, SLOT_NUMBERS, type Table } from '../binding/tables.js'
import * as tables from '../binding/tables.js'
import { boundMemory, gpuBufferOf } from '../memory/operand-memory.js'
import type { Part } from '../memory/operand.js'
import type { Placement } from '../memory/placement.js'
import type { Output } from './output.js'
import type { LinearProblem } from './linear-problem.js'
import type { MatMulProblem } from './matmul.js'
import type { Problem } from './problem.js'

/** A matrix in memory: an operand of the caller, or a part of memory of the package. */
export interface Region extends Part {
  readonly rows: number
  readonly columns: number
  readonly pitch: number
  readonly dtype: DType
}

/** Rows one after the other, in float32. */
export function region(part: Part, rows: number, columns: number, dtype: DType = 'float32'): Region {
  return { memory: part.memory, byteOffset: part.byteOffset, rows, columns, pitch: columns, dtype }
}

/** Sizes of a call none of whose operands is a part. */
export const NO_SIZES: readonly number[] = []

/** What a slot holds: a part has the size and the type that the table gives it. Null: nothing. */
export type Entry = Region | Part | Output | null

/** What calls of one kind have in common. */
interface Kind<P extends Sized = Sized> {
  readonly table: Table
  /** Numbers of each item of a list. */
  readonly itemFields?: number
  /** Writes the numbers of the call that follow the fields of its placement. */
  write(numbers: Float64Array, problem: P): void
  /** The smallest dimension of its products, if the call has an Async form. */
  least?(problem: P): number
}

/** A call that is ready to run. */
export interface Call<P extends Sized = Sized> {
  readonly kind: Kind<P>
  readonly problem: P
  readonly operands: readonly Entry[]
  readonly placement: Placement | null
}

/** The sizes of parts, by the positions of `size` in slots.ts, and the type of `hidden`. */
export interface Sized {
  readonly sizes: readonly number[]
  readonly hiddenDtype?: DType
  /** The problems of a list of calls, which have the sizes of the parts of its items. */
  readonly calls?: readonly Sized[]
}

/** The numbers of calls over disjoint rows of one x. */
export interface RowsProblem extends Sized {
  readonly precision: Problem['precision']
  /** The type of x and of the parameters. */
  readonly dtype: DType
  readonly parameterDtype: DType
  /** The rows of x. */
  readonly tokens: number
  readonly dIn: number
  readonly dOut: number
  /** The number of rows that the calls have, and of elements of the operand `index` (native/binding/descriptor.h). */
  readonly listed: number
  readonly indices: number
  /** The calls: `tokens` of each is the number of its rows. */
  readonly calls: readonly Problem[]
  /** For each call its first row if its rows are one run, otherwise -1. */
  readonly firsts: readonly number[]
}

const SIZES = Object.keys(size).length

/** The sizes of the parts of a draw of dropout. */
export const DRAW_SIZES: Sized = { sizes: Object.keys(size).map((name) => (name === 'four' ? 4 : 1)) }

/** The sizes of the parts of a list of calls, by the positions of `size`. */
export function rowsSizes({ listed, indices }: Pick<RowsProblem, 'listed' | 'indices'>): readonly number[] {
  const sizes = new Array<number>(SIZES).fill(0)
  sizes[size.one] = 1
  sizes[size.listed] = listed
  sizes[size.indices] = indices
  return sizes
}

/** Sizes of the stacked experts b, [E, r, d_out]. */
export interface StackSizes {
  readonly experts: number
  readonly rank: number
  readonly dOut: number
}

/** The numbers of a call of attention. */
export interface AttentionProblem extends Sized {
  readonly batch: number
  /** Queries of an item of the batch, and its keys. */
  readonly tokens: number
  readonly keys: number
  readonly heads: number
  readonly dHead: number
  readonly causal: boolean
  readonly scale: number
}

/** The sizes of the parts of a call of attention, by the positions of `size`. */
export function attentionSizes({ batch, tokens, keys, heads }: Omit<AttentionProblem, 'sizes'>): readonly number[] {
  const sizes = new Array<number>(SIZES).fill(0)
  sizes[size.batch] = batch
  sizes[size.keys] = keys
  sizes[size.headRows] = batch * heads
  sizes[size.statistics] = 2 * tokens
  return sizes
}

/** The numbers of a step of AdamW. */
export interface AdamWNumbers extends Sized {
  readonly step: number
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  readonly maxNorm: number
  readonly items: readonly { readonly lr: number; readonly weightDecay: number }[]
}

/** Names in the order of lily_elementwise_function in native/include/lily/cpu.h. */
const ELEMENTWISE_FUNCTIONS = ['add', 'subtract', 'multiply', 'divide', 'sigmoid', 'rowSum'] as const
export type ElementwiseFunction = (typeof ELEMENTWISE_FUNCTIONS)[number]

/** Whether an operand has a number for each row and for each column; otherwise they repeat. */
export interface Extent {
  readonly hasRows: boolean
  readonly hasColumns: boolean
}

/** The numbers of a function of m x n elements. */
export interface ElementwiseProblem extends Sized {
  readonly function: ElementwiseFunction
  readonly m: number
  readonly n: number
  readonly a: Extent
  readonly b: Extent
  /** Factor of the sums of rows. */
  readonly scale: number
}

const ROWS_ITEM_FIELDS = Object.keys(rowsItemFields).length

function writeAdapter(numbers: Float64Array, problem: Problem): void {
  numbers[adapterFields.routing] = routing[problem.routing]
  numbers[adapterFields.pool] = pool[problem.pool]
  numbers[adapterFields.activation] = activation[problem.activation]
  numbers[adapterFields.precision] = precision[problem.precision]
  numbers[adapterFields.activationDtype] = dtypes[problem.x.dtype]
  numbers[adapterFields.parameterDtype] = dtypes[problem.a.dtype]
  numbers[adapterFields.tokens] = problem.tokens
  numbers[adapterFields.dIn] = problem.dIn
  numbers[adapterFields.dOut] = problem.dOut
  numbers[adapterFields.rank] = problem.rank
  numbers[adapterFields.experts] = problem.experts
  numbers[adapterFields.groups] = problem.groups
  numbers[adapterFields.scaling] = problem.scaling
  numbers[adapterFields.dropout] = problem.dropout
}

const leastOfAdapter = ({ tokens, dIn, dOut, rank }: Problem) => Math.min(tokens, dIn, dOut, rank)
const leastOfRows = ({ calls }: RowsProblem) => Math.max(...calls.map(leastOfAdapter))
const leastOfLinear = ({ tokens, weight }: LinearProblem) => Math.min(tokens, weight.rows, weight.columns)

function writeRows(numbers: Float64Array, problem: RowsProblem): void {
  numbers[rowsFields.precision] = precision[problem.precision]
  numbers[rowsFields.activationDtype] = dtypes[problem.dtype]
  numbers[rowsFields.parameterDtype] = dtypes[problem.parameterDtype]
  numbers[rowsFields.tokens] = problem.tokens
  numbers[rowsFields.dIn] = problem.dIn
  numbers[rowsFields.dOut] = problem.dOut
  numbers[rowsFields.listed] = problem.listed
  numbers[rowsFields.indices] = problem.indices
  let at = tables.forwardRows.fields
  for (const [i, call] of problem.calls.entries()) {
    numbers[at + rowsItemFields.routing] = routing[call.routing]
    numbers[at + rowsItemFields.pool] = pool[call.pool]
    numbers[at + rowsItemFields.activation] = activation[call.activation]
    numbers[at + rowsItemFields.rank] = call.rank
    numbers[at + rowsItemFields.experts] = call.experts
    numbers[at + rowsItemFields.groups] = call.groups
    numbers[at + rowsItemFields.scaling] = call.scaling
    numbers[at + rowsItemFields.count] = call.tokens
    numbers[at + rowsItemFields.first] = problem.firsts[i]
    at += ROWS_ITEM_FIELDS
  }
}

function writeLinear(numbers: Float64Array, problem: LinearProblem): void {
  const { weight } = problem
  numbers[linearFields.transposed] = problem.transposed ? 1 : 0
  numbers[linearFields.precision] = precision[problem.precision]
  numbers[linearFields.activationDtype] = dtypes[problem.dtype]
  numbers[linearFields.parameterDtype] = dtypes[weight.dtype]
  numbers[linearFields.tokens] = problem.tokens
  numbers[linearFields.dIn] = weight.columns
  numbers[linearFields.dOut] = weight.rows
}

function writeAttention(numbers: Float64Array, problem: AttentionProblem): void {
  numbers[attentionFields.batch] = problem.batch
  numbers[attentionFields.tokens] = problem.tokens
  numbers[attentionFields.keys] = problem.keys
  numbers[attentionFields.heads] = problem.heads
  numbers[attentionFields.dHead] = problem.dHead
  numbers[attentionFields.scale] = problem.scale
  numbers[attentionFields.causal] = problem.causal ? 1 : 0
}

/** A kind that bundlers leave out of pages that do not use it: they may drop a call, but not the access to a property. */
const kindOf = <P extends Sized>(of: () => Kind<P>): Kind<P> => of()

export const FORWARD: Kind<Problem> = { table: tables.forward, write: writeAdapter, least: leastOfAdapter }
export const BACKWARD: Kind<Problem> = { table: tables.backward, write: writeAdapter, least: leastOfAdapter }
export const FORWARD_ROWS: Kind<RowsProblem> = {
  table: tables.forwardRows,
  itemFields: ROWS_ITEM_FIELDS,
  write: writeRows,
  least: leastOfRows,
}
export const BACKWARD_ROWS: Kind<RowsProblem> = {
  table: tables.backwardRows,
  itemFields: ROWS_ITEM_FIELDS,
  write: writeRows,
  least: leastOfRows,
}
export const LINEAR: Kind<LinearProblem> = { table: tables.linear, write: writeLinear, least: leastOfLinear }
export const LINEAR_BACKWARD: Kind<LinearProblem> = {
  table: tables.linearBackward,
  write: writeLinear,
  least: leastOfLinear,
}
export const PACK: Kind<LinearProblem> = { table: tables.pack, write: writeLinear }
export const ATTENTION = /* @__PURE__ */ kindOf<AttentionProblem>(() => ({
  table: tables.attention,
  write: writeAttention,
}))
export const ATTENTION_BACKWARD = /* @__PURE__ */ kindOf<AttentionProblem>(() => ({
  table: tables.attentionBackward,
  write: writeAttention,
}))
export const FOLD: Kind<StackSizes & Sized> = {
  table: tables.fold,
  write(numbers, { dOut, rank, experts }) {
    numbers[foldFields.dOut] = dOut
    numbers[foldFields.rank] = rank
    numbers[foldFields.experts] = experts
  },
}
export const DRAW: Kind = {
  table: tables.draw,
  write() {
    // A draw has no numbers of its own.
  },
}
export const ADAMW = /* @__PURE__ */ kindOf<AdamWNumbers>(() => ({
  table: tables.adamw,
  itemFields: Object.keys(adamwItemFields).length,
  write(numbers, { step, beta1, beta2, eps, maxNorm, items }) {
    numbers[adamwFields.step] = step
    numbers[adamwFields.beta1] = beta1
    numbers[adamwFields.beta2] = beta2
    numbers[adamwFields.eps] = eps
    numbers[adamwFields.maxNorm] = maxNorm
    let at = tables.adamw.fields
    for (const { lr, weightDecay } of items) {
      numbers[at + adamwItemFields.lr] = lr
      numbers[at + adamwItemFields.weightDecay] = weightDecay
      at += Object.keys(adamwItemFields).length
    }
  },
}))
export const MATMUL = /* @__PURE__ */ kindOf<MatMulProblem>(() => ({
  table: tables.matmul,
  least: ({ m, k, n }) => Math.min(m, k, n),
  write(numbers, { outer, inner, m, k, n, transposeA, transposeB, precision: of, dtype }) {
    numbers[matmulFields.outer] = outer.count
    numbers[matmulFields.inner] = inner.count
    numbers[matmulFields.aOuter] = outer.hasA ? 1 : 0
    numbers[matmulFields.aInner] = inner.hasA ? 1 : 0
    numbers[matmulFields.bOuter] = outer.hasB ? 1 : 0
    numbers[matmulFields.bInner] = inner.hasB ? 1 : 0
    numbers[matmulFields.m] = m
    numbers[matmulFields.k] = k
    numbers[matmulFields.n] = n
    numbers[matmulFields.transposeA] = transposeA ? 1 : 0
    numbers[matmulFields.transposeB] = transposeB ? 1 : 0
    numbers[matmulFields.precision] = precision[of]
    numbers[matmulFields.activationDtype] = dtypes[dtype]
  },
}))

export const ELEMENTWISE = /* @__PURE__ */ kindOf<ElementwiseProblem>(() => ({
  table: tables.elementwise,
  write(numbers, { function: of, m, n, a, b, scale }) {
    numbers[elementwiseFields.function] = ELEMENTWISE_FUNCTIONS.indexOf(of)
    numbers[elementwiseFields.m] = m
    numbers[elementwiseFields.n] = n
    numbers[elementwiseFields.aRows] = a.hasRows ? 1 : 0
    numbers[elementwiseFields.aColumns] = a.hasColumns ? 1 : 0
    numbers[elementwiseFields.bRows] = b.hasRows ? 1 : 0
    numbers[elementwiseFields.bColumns] = b.hasColumns ? 1 : 0
    numbers[elementwiseFields.scale] = scale
  },
}))

/** The numbers and the memory of a call, as the addon and WebAssembly take them. */
export interface Encoded {
  readonly numbers: Float64Array
  readonly memory: Memory[]
}

/**
 * The encoded form of the last call, by operation. Calls without a list all have the same number of operands, and calls with
 * one repeat it in training and serving. Calls share it: the binding reads it before it returns, and no code of the caller
 * runs between the first write here and that read. It all ran when the call was read (read.ts).
 */
const shared: (Encoded | undefined)[] = []

function spaceOf(call: Call): Encoded {
  const { operation } = call.kind.table
  const last = shared[operation]
  return last?.memory.length === call.operands.length ? last : (shared[operation] = newSpace(call))
}

function newSpace({ kind, operands }: Call): Encoded {
  const { table } = kind
  const items = table.itemSlots.length === 0 ? 0 : (operands.length - table.slots.length) / table.itemSlots.length
  const count = table.fields + items * (kind.itemFields ?? 0) + operands.length * SLOT_NUMBERS
  return { numbers: new Float64Array(count), memory: new Array<Memory>(operands.length).fill(null) }
}

/** Writes a call for the addon and for WebAssembly. */
export function encode(call: Call): Encoded {
  const space = spaceOf(call)
  const { numbers, memory } = space
  const { kind, problem, operands, placement } = call
  numbers[placementFields.operation] = kind.table.operation
  numbers[placementFields.backend] = placement === null ? backend.cpu : backend.cuda
  numbers[placementFields.device] = placement?.device.id ?? 0
  numbers[placementFields.stream] = placement?.stream.cudaStream ?? 0
  numbers[placementFields.memoryStream] = placement?.stream.memoryStream.cudaStream ?? 0
  kind.write(numbers, problem)
  const { slots, itemSlots } = kind.table
  let at = numbers.length - operands.length * SLOT_NUMBERS
  for (let i = 0; i < operands.length; i++, at += SLOT_NUMBERS) {
    const entry = operands[i]
    if (entry === null) {
      numbers[at + slotFields.access] = access.none
      memory[i] = null
      continue
    }
    const slot = slots[i] ?? slotAt(kind.table, i)
    const operand = 'accumulate' in entry ? entry.operand : entry
    memory[i] = boundMemory(operand.memory)
    numbers[at + slotFields.byteOffset] = operand.byteOffset
    if ('rows' in operand) {
      const { rows, columns, pitch, dtype } = operand as Region
      numbers[at + slotFields.rows] = rows
      numbers[at + slotFields.columns] = columns
      numbers[at + slotFields.pitch] = pitch
      numbers[at + slotFields.dtype] = dtypes[dtype]
    } else {
      const item = i < slots.length ? undefined : problem.calls?.[Math.floor((i - slots.length) / itemSlots.length)]
      const { sizes } = item ?? problem
      numbers[at + slotFields.rows] = sizes[slot.rows]
      numbers[at + slotFields.columns] = numbers[at + slotFields.pitch] = sizes[slot.columns]
      numbers[at + slotFields.dtype] = dtypes[typeOfPart(slot.type, item ?? problem)]
    }
    if (slot.use === 'output') {
      numbers[at + slotFields.access] = 'accumulate' in entry && entry.accumulate ? access.add : access.write
    } else {
      numbers[at + slotFields.access] = slot.use === 'update' ? access.add : access.read
    }
  }
  return space
}

function typeOfPart(type: Table['slots'][number]['type'], { hiddenDtype }: Sized): DType {
  if (type === 'uint8' || type === 'int32') return type
  return (type === 'hidden' && hiddenDtype) || 'float32'
}

/** Runs a call in the addon or in WebAssembly. */
export function launch(call: Call): void {
  const { numbers, memory } = encode(call)
  try {
    native.run(numbers, ...memory)
  } finally {
    for (let i = 0; i < memory.length; i++) memory[i] = null // releases the operands
  }
}

/** Finds memory for the workspace of a call that follows others. */
export function reserve(call: Call): void {
  const { numbers, memory } = encode(call)
  try {
    native.reserve(numbers, ...memory)
  } finally {
    memory.fill(null)
  }
}

/**
 * The operands of slots, beginning with the slot of `first`, on a GPUDevice by name, as regions of its buffers; a draw of
 * dropout as numbers.
 */
function gpuOperands(
  slots: Table['slots'],
  operands: readonly Entry[],
  problem: Sized,
  first = 0,
): Record<string, object | null> {
  const { sizes } = problem
  const named: Record<string, object | null> = {}
  for (const [i, slot] of slots.entries()) {
    const entry = operands[first + i]
    if (entry === null) {
      named[slot.name] = null
      continue
    }
    if (slot.name === 'draw') {
      named.draw = Array.from((entry as Part).memory as Int32Array)
      continue
    }
    const operand = 'accumulate' in entry ? entry.operand : entry
    const type = slot.type === 'hidden' ? problem.hiddenDtype : 'float32'
    const matrix = gpuMatrix(
      'rows' in operand ? (operand as Region) : region(operand, sizes[slot.rows], sizes[slot.columns], type),
    )
    named[slot.name] = 'accumulate' in entry ? { ...matrix, accumulate: entry.accumulate } : matrix
  }
  return named
}

/** The sizes and modes of a call, as a GPUDevice takes them. */
function gpuSizes(problem: Problem): gpuCall.Sizes {
  const { routing, pool, activation, scaling, tokens, dIn, dOut, rank, experts, groups, dropout } = problem
  return { routing, pool, activation, scaling, tokens, dIn, dOut, rank, experts, groups, dropout }
}

/** A `hidden` that is not kept: its type, and with it the rounding, is the same. */
function unkept({ hiddenDtype, rank }: Problem): object {
  return { buffer: null, byteOffset: 0, dtype: hiddenDtype, pitch: rank }
}

/** A forward call on a GPUDevice. */
export function gpuForward(call: Call<Problem>): gpuCall.GpuWork {
  const { problem } = call
  const { hidden, ...operands } = gpuOperands(FORWARD.table.slots, call.operands, problem)
  const named = { ...gpuSizes(problem), ...operands, hidden: hidden ?? unkept(problem) }
  return { name: 'forward', call: named as unknown as gpuCall.ForwardCall }
}

/** A backward call on a GPUDevice. */
export function gpuBackward(call: Call<Problem>): gpuCall.GpuWork {
  const named = { ...gpuSizes(call.problem), ...gpuOperands(BACKWARD.table.slots, call.operands, call.problem) }
  return { name: 'backward', call: named as unknown as gpuCall.BackwardCall }
}

/**
 * Calls over disjoint rows on a GPUDevice.
 *
 * @param name of the operand that has rows of no call
 * @param complete what one call has beside its sizes, its tokens, the operands of all and its own
 */
function gpuRows(
  { kind, problem, operands }: Call<RowsProblem>,
  name: 'y' | 'dx',
  columns: number,
  complete: (problem: Problem, own: Record<string, object | null>) => object,
): gpuCall.RowsCall<never> {
  const { slots, itemSlots } = kind.table
  const { index, mask, scale, ...all } = gpuOperands(slots, operands, problem) as Record<string, gpuCall.Region | null>
  const { tokens: rows, listed, indices } = problem
  let at = 0
  let offsetsAt = listed
  const calls = problem.calls.map((of, k) => {
    const own = gpuOperands(itemSlots, operands, of, slots.length + k * itemSlots.length)
    const hasSequences = of.routing === 'sequence' || of.groups !== 1
    const named = {
      ...gpuSizes(of),
      ...all,
      ...own,
      ...complete(of, own),
      listed: { index: gpuFrom(index, INDEX_BYTES * at), rows, scale: gpuFrom(scale, INDEX_BYTES * at) },
      mask: of.routing === 'batch' || of.routing === 'sequence' ? gpuFrom(mask, at) : null,
      sequenceOffsets: hasSequences ? gpuFrom(index, INDEX_BYTES * offsetsAt) : null,
    }
    at += of.tokens
    if (hasSequences) offsetsAt += of.groups + 1
    return named
  })
  const count = rows - listed
  const out = all[name] as gpuCall.Output | null
  const isCleared = count > 0 && out !== null && !out.accumulate
  const first = gpuFrom(index, INDEX_BYTES * (indices - count)) as gpuCall.Region
  const rest = isCleared ? { out, rows, cols: columns, index: first, count } : null
  return { calls, rest } as unknown as gpuCall.RowsCall<never>
}

/** Bytes of an element of `index`, and of `scale`. */
const INDEX_BYTES = Int32Array.BYTES_PER_ELEMENT

/** A region from `bytes` bytes on. */
function gpuFrom(region: gpuCall.Region | null, bytes: number): gpuCall.Region | null {
  return region && { buffer: region.buffer, byteOffset: region.byteOffset + bytes }
}

/** Forward calls over disjoint rows on a GPUDevice. */
export function gpuForwardRows(call: Call<RowsProblem>): gpuCall.GpuWork {
  const complete = (problem: Problem, { hidden }: Record<string, object | null>) => ({
    hidden: hidden ?? unkept(problem),
    uncheckedOffsets: null,
    draw: null,
  })
  return { name: 'forwardRows', call: gpuRows(call, 'y', call.problem.dOut, complete) }
}

/** Backward calls over disjoint rows on a GPUDevice. */
export function gpuBackwardRows(call: Call<RowsProblem>): gpuCall.GpuWork {
  const complete = () => ({ dWeights: null, deferredDb: null, draw: null })
  return { name: 'backwardRows', call: gpuRows(call, 'dx', call.problem.dIn, complete) }
}

/** A call of a frozen linear layer on a GPUDevice. */
export function gpuLinear(call: Call<LinearProblem>): gpuCall.GpuWork {
  const { transposed, tokens, weight } = call.problem
  const operands = gpuOperands(LINEAR.table.slots, call.operands, call.problem)
  const named = { transposed, tokens, dIn: weight.columns, dOut: weight.rows, ...operands }
  return { name: 'linear', call: named as unknown as gpuCall.LinearCall }
}

/** Memory on a GPUDevice. */
export function gpuRegion({ memory, byteOffset }: Part): gpuCall.Region {
  return { buffer: gpuBufferOf(memory) as GPUBuffer, byteOffset }
}

export function gpuMatrix(region: Region): gpuCall.Matrix {
  return { ...gpuRegion(region), dtype: region.dtype as gpuCall.NumberType, pitch: region.pitch }
}
