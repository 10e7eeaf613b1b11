/** What forward leaves for backward. */
import { viewOf, type DType } from './dtype.js'
import { describe, fail, LilyError } from './errors.js'
import { CPU, layOut } from './operand.js'
import type { Problem, Routing } from './problem.js'
import { disposeSymbol, inspectSymbol, tensorOf, type Tensor } from './tensor.js'

/** The package's side of a saved call. */
export class State {
  /** Gradients of b that backward calls have left to foldB: [problem.deferredSlabs, r, d_out] each. */
  deferred: ArrayBufferView[] = []

  constructor(readonly problem: Problem) {}
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

  /** [M, r], in the type of x: x a^T after the activation. */
  get hidden(): Tensor {
    const { kept, x, tokens, rank } = this.#problem()
    return part('hidden', kept, 0, x.dtype, [tokens, rank])
  }

  /** [M, E], float32: the router's probabilities of each token, with token routing and pool 'probabilities'. */
  get probabilities(): ProbabilitiesOf<R> {
    const { kept, probabilitiesOffset, tokens, experts } = this.#problem()
    const has = probabilitiesOffset >= 0
    const tensor = has ? part('probabilities', kept, probabilitiesOffset, 'float32', [tokens, experts]) : undefined
    return tensor as ProbabilitiesOf<R>
  }

  /** [G, E], float32: the weights that mixed the experts, with all routings but token. */
  get weights(): WeightsOf<R> {
    const { weightsView, groups, experts } = this.#problem()
    const has = weightsView !== null
    return (has ? part('weights', weightsView, 0, 'float32', [groups, experts]) : undefined) as WeightsOf<R>
  }

  get isDisposed(): boolean {
    return this.#state === null
  }

  /** Lets go of the memory and of the operands. A later backward throws ERR_LILY_DISPOSED. */
  dispose(): void {
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
  memory: Float32Array | null,
  offset: number,
  dtype: DType,
  shape: [number, number],
): Tensor {
  if (memory === null) throw new Error('a saved call keeps memory')
  const data = viewOf(dtype, memory.buffer, memory.byteOffset + offset, shape[0] * shape[1])
  return tensorOf(layOut(name, data, 0, dtype, CPU, shape, null))
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
