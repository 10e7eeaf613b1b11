/** What forward leaves for backward. */
import { type DType, viewOf } from '../base/dtype.js'
import { describe, fail, LilyError } from '../base/errors.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { CPU, type Device } from '../memory/device.js'
import { isDeviceMemory, isHostMemory, layOut, layOutOnDevice, type OperandMemory } from '../memory/operand.js'
import { type Tensor, tensorOf } from '../tensor/tensor.js'
import type { DeferredB } from './deferred-b.js'
import type { Problem, Routing } from './problem.js'

/** The package's side of a saved call. */
export class State {
  /** Gradients of b that backward calls have left to foldB. */
  deferred: DeferredB[] = []

  constructor(readonly problem: Problem) {}

  /** The deferred gradients, of which the caller disposes. */
  takeDeferred(): DeferredB[] {
    const { deferred } = this
    this.deferred = []
    return deferred
  }

  /** Lets go of the deferred gradients. */
  dropDeferred(): void {
    for (const deferred of this.takeDeferred()) deferred.dispose()
  }

  dispose(): void {
    this.dropDeferred()
    this.problem.dispose()
  }
}

let stateOf: (saved: Saved) => State | null

/** What a forward leaves for its backward. */
export let savedOf: (problem: Problem) => Saved

type ProbabilitiesOf<R> = R extends 'token' ? Tensor : R extends 'batch' | 'sequence' ? Tensor | undefined : undefined
type WeightsOf<R> = R extends 'token' | 'none' ? undefined : Tensor

/**
 * What a forward call keeps for its backward: the operands, by reference, and the tensors below, which may be read for
 * analysis. `R` is the routing; 'none' is LoRA.
 */
export class Saved<R extends Routing | 'none' = Routing | 'none'> {
  #state: State | null

  private constructor(problem: Problem) {
    this.#state = new State(problem)
  }

  static {
    stateOf = (saved) => saved.#state
    savedOf = (problem) => new Saved(problem)
  }

  get routing(): R {
    return this.#problem().routing as R
  }

  /** [M, r], in the type of x (float32 with precision 'high' and float32 parameters): x a^T after the activation. */
  get hidden(): Tensor {
    const { kept, hiddenDtype, x, tokens, rank } = this.#problem()
    return part('hidden', kept, 0, hiddenDtype, [tokens, rank], x.device)
  }

  /** [M, E], float32: the router's probabilities of each token, with token routing and pool 'probabilities'. */
  get probabilities(): ProbabilitiesOf<R> {
    const { kept, x, probabilitiesOffset: offset, tokens, experts } = this.#problem()
    const shape: [number, number] = [tokens, experts]
    const tensor = offset >= 0 ? part('probabilities', kept, offset, 'float32', shape, x.device) : undefined
    return tensor as ProbabilitiesOf<R>
  }

  /** [G, E], float32: the weights that mixed the experts, with all routings but token. */
  get weights(): WeightsOf<R> {
    const { weights, x, groups, experts } = this.#problem()
    const shape: [number, number] = [groups, experts]
    const tensor = weights && part('weights', weights.memory, weights.byteOffset, 'float32', shape, x.device)
    return (tensor ?? undefined) as WeightsOf<R>
  }

  get isDisposed(): boolean {
    return this.#state === null
  }

  /** Lets go of the memory and of the operands. A later backward throws ERR_LILY_DISPOSED. */
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

  #problem(): Problem {
    if (this.#state !== null) return this.#state.problem
    throw new LilyError('ERR_LILY_DISPOSED', 'saved: has been disposed of; read it before dispose()')
  }
}

/** What {@link lilyForward} leaves for {@link lilyBackward}. */
export type LilySaved<R extends Routing = Routing> = Saved<R>

/** What {@link loraForward} leaves for {@link loraBackward}. */
export type LoraSaved = Saved<'none'>

/** A tensor over a part of the memory that a forward keeps. */
function part(
  name: string,
  memory: OperandMemory | null,
  byteOffset: number,
  dtype: DType,
  shape: [number, number],
  device: Device,
): Tensor {
  if (memory === null) throw new Error('a saved call keeps memory')
  if (isHostMemory(memory)) {
    const data = viewOf(dtype, memory.buffer, memory.byteOffset + byteOffset, shape[0] * shape[1])
    return tensorOf(layOut(name, data, 0, dtype, CPU, shape, null))
  }
  if (isDeviceMemory(memory)) return tensorOf(layOutOnDevice(name, memory.retain(), byteOffset, dtype, shape))
  return tensorOf(layOut(name, memory, byteOffset, dtype, device, shape, null))
}

/** The state behind a `saved` argument, which must be of Lily or of LoRA. */
export function readSaved(argument: string, saved: unknown, of: 'lilyForward' | 'loraForward'): State {
  if (!(saved instanceof Saved)) {
    fail('ERR_LILY_ARGUMENT', argument, `expected what ${of} returned as saved, got ${describe(saved)}`)
  }
  const state = stateOf(saved as Saved)
  if (state === null) fail('ERR_LILY_DISPOSED', argument, 'has been disposed of; call backward before dispose()')
  if ((state.problem.routing === 'none') !== (of === 'loraForward')) {
    fail('ERR_LILY_ARGUMENT', argument, `expected what ${of} returned as saved, got that of the other operation`)
  }
  return state
}
