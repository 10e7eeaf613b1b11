/** The `saved` object of a forward call, which its backward calls read. */
import { type DType, viewOf } from '../base/dtype.js'
import { describeOther, fail, LilyError } from '../base/errors.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import type { Device } from '../memory/device.js'
import { isDeviceMemory, isHostMemory, type OperandMemory } from '../memory/operand-memory.js'
import { checkAttached, layOut, layOutOnDevice, layOutOnHost } from '../memory/operand.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import type { CallState } from './call-state.js'
import type { Routing } from './problem.js'

/** The state of a saved call: null once it is disposed of; undefined for any other value. */
let stateOf: (saved: unknown) => CallState | null | undefined

/** Creates the `saved` object of a call. */
export let savedOf: (state: CallState) => Saved

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
    savedOf = (state) => new Saved(state)
  }

  /** The routing of the call; 'none' for LoRA. */
  get routing(): R {
    return this.#open().problem.routing as R
  }

  /** [M, r], in the type of x (float32 with precision 'high' and float32 parameters): h = phi(x a^T). */
  get hidden(): Tensor {
    const { kept, problem } = this.#open()
    const { hiddenDtype, x, tokens, rank } = problem
    return part('hidden', kept, 0, hiddenDtype, [tokens, rank], x.device)
  }

  /** [M, E], float32: the router's probabilities of each token, with token routing and pool 'probabilities'. */
  get probabilities(): ProbabilitiesOf<R> {
    const { kept, problem } = this.#open()
    const { x, probabilitiesOffset: offset, tokens, experts } = problem
    const shape: [number, number] = [tokens, experts]
    const tensor = problem.keepsProbabilities
      ? part('probabilities', kept, offset, 'float32', shape, x.device)
      : undefined
    return tensor as ProbabilitiesOf<R>
  }

  /** [G, E], float32: the weights that mixed the experts, with all routings but token. */
  get weights(): WeightsOf<R> {
    const { weights, problem } = this.#open()
    const { x, groups, experts } = problem
    const shape: [number, number] = [groups, experts]
    const tensor = weights && part('weights', weights.memory, weights.byteOffset, 'float32', shape, x.device)
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
    if (this.#state !== null) return this.#state
    throw new LilyError('ERR_LILY_DISPOSED', 'saved: has been disposed of; read it before dispose()')
  }
}

/** What {@link lilyForward} keeps for {@link lilyBackward}. */
export type LilySaved<R extends Routing = Routing> = Saved<R>

/** What {@link loraForward} keeps for {@link loraBackward}. */
export type LoraSaved = Saved<'none'>

/** A tensor that shares a part of the kept memory. */
function part(
  name: string,
  memory: OperandMemory | null,
  byteOffset: number,
  dtype: DType,
  shape: [number, number],
  device: Device,
): Tensor {
  if (memory === null) throw new Error('a saved call has kept memory')
  if (isHostMemory(memory)) {
    if (shape[0] > 0) checkAttached(name, memory)
    const data = viewOf(dtype, memory.buffer, memory.byteOffset + byteOffset, shape[0] * shape[1])
    return tensorOf(layOutOnHost(name, data, dtype, shape))
  }
  if (isDeviceMemory(memory)) return tensorOf(layOutOnDevice(name, memory.retain(), byteOffset, dtype, shape))
  return tensorOf(layOut(name, memory, byteOffset, dtype, device, shape, null))
}

/** The state of a `saved` argument. Fails if it is not a result of the forward function `of`. */
export function readSaved(argument: string, saved: unknown, of: 'lilyForward' | 'loraForward'): CallState {
  const state = stateOf(saved)
  if (state === undefined) {
    fail('ERR_LILY_ARGUMENT', argument, `expected what ${of} returned as saved, got ${describeOther(saved, 'Saved')}`)
  }
  if (state === null) fail('ERR_LILY_DISPOSED', argument, 'has been disposed of; call backward before dispose()')
  if ((state.problem.routing === 'none') !== (of === 'loraForward')) {
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected what ${of} returned as saved, got the saved call of the other operation`,
    )
  }
  return state
}
