/** The `saved` object of a forward call, which its backward calls read. */
import { type DType, viewOf } from '../base/dtype.js'
import { describeOther, fail, LilyError } from '../base/errors.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import type { Device } from '../memory/device.js'
import { isDeviceMemory, isHostMemory } from '../memory/operand-memory.js'
import { checkAttached, layOut, layOutOnDevice, layOutOnHost, type Part } from '../memory/operand.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import type { CallState } from './call-state.js'
import type { Problem, Routing } from './problem.js'
import { RowsState } from './rows-state.js'

/** The state of a saved call: null once it is disposed of; undefined for any other value. */
let stateOf: (saved: unknown) => CallState | null | undefined

/** Creates the `saved` object of an adapter's call. */
let ofCall: (state: CallState) => Saved

type ProbabilitiesOf<R> = R extends 'token' ? Tensor : R extends 'batch' | 'sequence' ? Tensor | undefined : undefined
type WeightsOf<R> = R extends 'token' | 'none' ? undefined : Tensor

/**
 * What a forward call keeps for its backward: references to the operands, and the tensors below, which you may read for
 * analysis. `R` is the routing; 'none' is LoRA.
 */
export class Saved<R extends Routing | 'none' = Routing | 'none'> {
  #state: CallState | null

  private constructor(state: CallState) {
    this.#state = state
  }

  static {
    stateOf = (saved) => (saved instanceof Saved ? saved.#state : undefined)
    ofCall = (state) => new Saved(state)
  }

  /** The routing of the call; 'none' for LoRA. */
  get routing(): R {
    return this.#open().problem.routing as R
  }

  /** [M, r], in the type of x (float32 with precision 'high' and float32 parameters): h = phi(x a^T). */
  get hidden(): Tensor {
    const { hidden, problem } = this.#open()
    const { hiddenDtype, x, tokens, rank } = problem
    if (hidden === null) throw new Error('a saved call has kept memory')
    return part('hidden', hidden, hiddenDtype, [tokens, rank], x.device)
  }

  /** [M, E], float32: the router's probabilities of each token, with token routing and pool 'probabilities'. */
  get probabilities(): ProbabilitiesOf<R> {
    const { probabilities, problem } = this.#open()
    const { x, tokens, experts } = problem
    const tensor = probabilities && part('probabilities', probabilities, 'float32', [tokens, experts], x.device)
    return (tensor ?? undefined) as ProbabilitiesOf<R>
  }

  /** [G, E], float32: the weights that mixed the experts, with all routings but token. */
  get weights(): WeightsOf<R> {
    const { weights, problem } = this.#open()
    const { x, groups, experts } = problem
    const tensor = weights && part('weights', weights, 'float32', [groups, experts], x.device)
    return (tensor ?? undefined) as WeightsOf<R>
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#state === null
  }

  /** Releases the memory and the references to the operands. A later backward throws ERR_LILY_DISPOSED. */
  dispose(): void {
    this.#state?.dispose()
    this.#state = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#state === null) return 'Saved { disposed }'
    const { routing, tokens, dIn, dOut, rank, experts } = this.#state.problem
    const name = routing === 'none' ? 'LoraSaved' : 'LilySaved'
    const lily = routing === 'none' ? '' : `, E ${experts}, routing '${routing}'`
    return `${name} { M ${tokens}, d_in ${dIn}, d_out ${dOut}, r ${rank}${lily} }`
  }

  #open(): CallState {
    return this.#state ?? failDisposed()
  }
}

function failDisposed(): never {
  throw new LilyError('ERR_LILY_DISPOSED', 'saved: has been disposed of; read it before dispose()')
}

/** What {@link lilyForward} keeps for {@link lilyBackward}. */
export type LilySaved<R extends Routing = Routing> = Saved<R>

/** What {@link loraForward} keeps for {@link loraBackward}. */
export type LoraSaved = Saved<'none'>

/** A tensor that shares a part of the kept memory. */
function part(
  name: string,
  { memory, byteOffset }: Part,
  dtype: DType,
  shape: [number, number],
  device: Device,
): Tensor {
  if (isHostMemory(memory)) {
    if (shape[0] > 0) checkAttached(name, memory)
    const data = viewOf(dtype, memory.buffer, memory.byteOffset + byteOffset, shape[0] * shape[1])
    return tensorOf(layOutOnHost(name, data, dtype, shape))
  }
  if (isDeviceMemory(memory)) return tensorOf(layOutOnDevice(name, memory.retain(), byteOffset, dtype, shape))
  return tensorOf(layOut(name, memory, byteOffset, dtype, device, shape, null))
}

/** The state of a saved call of several adapters: null once it is disposed of; undefined for any other value. */
let rowsStateOf: (saved: unknown) => RowsState | null | undefined

/** Creates the `saved` object of a call of several adapters. */
let ofRows: (state: RowsState) => RowsSaved

/**
 * What a forward call with an adapter for each row keeps for its backward. `R` is the routing; 'none' is LoRA.
 *
 * @example
 * const { y, saved } = loraForward({ x, a, b }, { rankOffsets: [0, 8, 24], adapterOf: [0, 1, -1, 0] })
 * saved.rows[0] // Int32Array [0, 3], if x has 4 rows
 * saved.adapters[0].hidden // [2, 8]
 */
export class RowsSaved<R extends Routing | 'none' = Routing | 'none'> {
  #state: RowsState | null

  private constructor(
    state: RowsState,
    /** By adapter: what an ordinary call over the adapter's rows would have saved, to be read. */
    readonly adapters: readonly Saved<R>[],
  ) {
    this.#state = state
  }

  static {
    rowsStateOf = (saved) => (saved instanceof RowsSaved ? saved.#state : undefined)
    ofRows = (state) => new RowsSaved(state, state.adapters.map(ofCall))
  }

  /** By adapter, `[M_k]`: a copy of the numbers of its rows of x, ascending. */
  get rows(): readonly Int32Array[] {
    if (this.#state === null) failDisposed()
    const { index, rows } = this.#state.assignment
    return rows.map(({ start, count }) => index.slice(start, start + count))
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#state === null
  }

  /** Releases the memory and the references to the operands. Throws nothing; a later backward throws ERR_LILY_DISPOSED. */
  dispose(): void {
    for (const adapter of this.adapters) adapter.dispose()
    this.#state?.release()
    this.#state = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#state === null) return 'RowsSaved { disposed }'
    const { tokens, dIn, dOut } = this.#state.problem
    return `RowsSaved { M ${tokens}, d_in ${dIn}, d_out ${dOut}, adapters ${this.adapters.length} }`
  }
}

/** Creates the `saved` object of a call. */
export function savedOf(state: CallState | RowsState): Saved | RowsSaved {
  return state instanceof RowsState ? ofRows(state) : ofCall(state)
}

/**
 * The state of a `saved` argument of several adapters; null if it is of one, or no `saved` object.
 *
 * @throws LilyError ERR_LILY_DISPOSED, also if the state of one of the adapters is disposed of
 */
export function readRowsSaved(argument: string, saved: unknown): RowsState | null {
  const state = rowsStateOf(saved)
  if (state === undefined) return null
  if (state === null || (saved as RowsSaved).adapters.some(({ isDisposed }) => isDisposed)) {
    fail('ERR_LILY_DISPOSED', argument, 'has been disposed of; call backward before dispose()')
  }
  return state
}

export type Operation = 'lilyForward' | 'loraForward'

/** The state of a `saved` argument. Fails if it is not a result of the forward function `of`. */
export function readSaved(argument: string, saved: unknown, of: Operation): CallState {
  const state = stateOf(saved)
  if (state === undefined) {
    const got = describeOther(saved, 'Saved')
    fail('ERR_LILY_ARGUMENT', argument, `expected what ${of} or a layer returned as saved, got ${got}`)
  }
  if (state === null) fail('ERR_LILY_DISPOSED', argument, 'has been disposed of; call backward before dispose()')
  if (state.listedAt !== null) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected what ${of} returned as saved, got the part of one of its adapters; pass the whole object`,
    )
  }
  checkOperation(argument, state.problem, of)
  return state
}

/** Checks that a saved call is of the operation that is named. */
export function checkOperation(argument: string, { routing }: Pick<Problem, 'routing'>, of: Operation): void {
  if ((routing === 'none') === (of === 'loraForward')) return
  fail(
    'ERR_LILY_ARGUMENT',
    argument,
    `expected what ${of} returned as saved, got the saved call of the other operation`,
  )
}
