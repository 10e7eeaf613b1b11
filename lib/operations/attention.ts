/** Scaled dot-product attention on the cpu backend, forward and backward. */
import { checkType } from '../base/checks.js'
import { describeOther, fail, LilyError } from '../base/errors.js'
import { checkCount, type Exact, type Known, readFlag, readFloat32, readProperties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { disposeSymbol, inspectSymbol } from '../base/symbols.js'
import { allocateOnHost } from '../memory/allocate.js'
import { refuseOverlap } from '../memory/checks.js'
import { CPU, deviceText } from '../memory/device.js'
import { checkMemory, type Operand, type Part } from '../memory/operand.js'
import { resolve, resolveIfGiven, type TensorLike } from '../tensor/resolve.js'
import type { Tensor } from '../tensor/tensor.js'
import type { GradientOf } from './backward.js'
import { ATTENTION, ATTENTION_BACKWARD, type AttentionProblem, attentionSizes } from './call.js'
import { run } from './dispatch.js'
import type { SavedOf } from './forward.js'
import { Output } from './output.js'
import { checkKeyMask, type MaskLike, readMask } from './small-operands.js'

/** Operands of {@link attentionForward}, float32. A head is d_head columns: d = heads * d_head. */
export interface AttentionForwardOperands {
  /** `[batch, tokens, d]`, or `[tokens, d]` of one item: the queries, as a linear layer leaves them. */
  readonly q: TensorLike
  /** `[batch, keys, d]`: the keys. Their number may differ from the number of queries. */
  readonly k: TensorLike
  /** `[batch, keys, d]`: the values. */
  readonly v: TensorLike
  /** `[batch, keys]`: no query sees a key with 0, nor its value. Default: all keys count. */
  readonly mask?: MaskLike | undefined
  /** The shape of q, overwritten. Without it a new tensor is returned. */
  readonly y?: TensorLike | undefined
}

/** Options of {@link attentionForward}. */
export interface AttentionForwardOptions {
  /** The number of heads, which divides d. */
  readonly heads: number
  /**
   * Query i of `tokens` sees the keys up to i + keys - tokens: the last query sees all, and with as many keys as queries a
   * query sees those up to its own position. Default false.
   */
  readonly causal?: boolean | undefined
  /** The factor of the scores q k^T. Default 1 / sqrt(d_head). */
  readonly scale?: number | undefined
  /** Keep what backward needs. Default true; pass false for inference. */
  readonly save?: boolean | undefined
}

/** Result of {@link attentionForward}. */
export interface AttentionForwardResult<O> {
  /** The given y, or a new tensor of the shape of q. */
  readonly y: Tensor
  /** What backward needs; undefined with `save: false`. */
  readonly saved: SavedOf<O, AttentionSaved>
}

/** Operands of {@link attentionBackward}. Given gradients are accumulated in place and returned. */
export interface AttentionBackwardOperands {
  /** The shape of y: its gradient. */
  readonly dy: TensorLike
  /**
   * The q of forward again, if its memory has moved since, as views of a WebAssembly.Memory do when it grows. Shape and
   * numbers must be the same as in forward. Default: the q that `saved` refers to.
   */
  readonly q?: TensorLike | undefined
  /** `[batch, keys, d]`: the k of forward again. */
  readonly k?: TensorLike | undefined
  /** `[batch, keys, d]`: the v of forward again. */
  readonly v?: TensorLike | undefined
  /** `[batch, tokens, d]`: the y of forward again. */
  readonly y?: TensorLike | undefined
  /** The shape of q: its gradient. Without it a new tensor is returned. */
  readonly dq?: TensorLike | undefined
  /** The shape of k: its gradient. */
  readonly dk?: TensorLike | undefined
  /** The shape of v: its gradient. */
  readonly dv?: TensorLike | undefined
}

/** Which gradients to compute. Default: all. */
export interface AttentionNeeds {
  /** The gradient of q. */
  readonly dq?: boolean | undefined
  /** The gradient of k. */
  readonly dk?: boolean | undefined
  /** The gradient of v. */
  readonly dv?: boolean | undefined
}

/** Options of {@link attentionBackward}. */
export interface AttentionBackwardOptions {
  /** Which gradients to compute. Default: all. */
  readonly needs?: AttentionNeeds | undefined
  /** Add to the given gradients. Default true; false overwrites them. */
  readonly accumulate?: boolean | undefined
}

/** Result of {@link attentionBackward}: the given gradients, or new tensors. */
export interface AttentionGradients<O> {
  /** The shape of q. */
  readonly dq: GradientOf<O, 'dq'>
  /** The shape of k. */
  readonly dk: GradientOf<O, 'dk'>
  /** The shape of v. */
  readonly dv: GradientOf<O, 'dv'>
}

const FORWARD_OPERANDS: Known = new Set(['q', 'k', 'v', 'mask', 'y'])
const FORWARD_OPTIONS: Known = new Set(['heads', 'causal', 'scale', 'save'])
const BACKWARD_OPERANDS: Known = new Set(['dy', 'q', 'k', 'v', 'y', 'dq', 'dk', 'dv'])
const BACKWARD_OPTIONS: Known = new Set(['needs', 'accumulate'])
const NEEDS: Known = new Set(['dq', 'dk', 'dv'])

/** The operands of forward that backward reads, and what has the gradients of the first three. */
const INPUTS = ['q', 'k', 'v', 'y'] as const
const GRADIENTS = ['dq', 'dk', 'dv'] as const

/** What a forward call keeps. */
interface State {
  readonly problem: AttentionProblem
  /** q, k, v and y. */
  readonly operands: readonly Operand[]
  readonly mask: Part | null
  /** [batch, heads, 2, tokens]: the maximum of the scores of a query, and one divided by the sum of the exponentials. */
  readonly statistics: Part
}

let stateOf: (saved: unknown) => State | null | undefined
let savedOf: (state: State) => AttentionSaved

/**
 * What {@link attentionForward} keeps for its backward calls: references to q, k, v and y, which must not change, the mask,
 * and two numbers for each query and head.
 *
 * @example
 * const { saved } = attentionForward({ q, k, v }, { heads: 4 })
 * saved.dispose() // without backward
 */
export class AttentionSaved {
  #state: State | null

  private constructor(state: State) {
    this.#state = state
  }

  static {
    stateOf = (saved) => (saved instanceof AttentionSaved ? saved.#state : undefined)
    savedOf = (state) => new AttentionSaved(state)
  }

  /** Whether `dispose()` has been called. */
  get isDisposed(): boolean {
    return this.#state === null
  }

  /**
   * Releases the memory and the references to the operands. A later backward throws ERR_LILY_DISPOSED. Throws nothing; calling
   * it again has no effect.
   */
  dispose(): void {
    this.#state = null
  }

  [disposeSymbol](): void {
    this.dispose()
  }

  [inspectSymbol](): string {
    if (this.#state === null) return 'AttentionSaved { disposed }'
    const { batch, tokens, keys, heads, dHead } = this.#state.problem
    return `AttentionSaved { batch ${batch}, tokens ${tokens}, keys ${keys}, heads ${heads}, d_head ${dHead} }`
  }
}

/**
 * Scaled dot-product attention: y = softmax(scale q k^T) v for each item of the batch and each head, over the keys that a
 * query sees. A query that sees no key has a y of zeros. Heads are columns of q, k, v and y, so that nothing is transposed.
 * It runs on the cpu, natively or as WebAssembly, and returns when the work is done. Formulas: docs/attention.md, from
 * arXiv 1706.03762 and 2307.08691.
 *
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DISPOSED, ERR_LILY_OUT_OF_MEMORY;
 *   ERR_LILY_DEVICE for operands that are not in host memory. A call that throws at a check has written nothing
 * @example
 * const { y, saved } = attentionForward({ q, k, v }, { heads: 4, causal: true })
 */
export function attentionForward<O extends Exact<O, AttentionForwardOptions>>(
  operands: AttentionForwardOperands,
  options: O,
): AttentionForwardResult<O> {
  const {
    mask,
    y: given,
    ...inputs
  } = readProperties('operands', operands, FORWARD_OPERANDS, (from) => ({
    q: resolve('q', from.q),
    k: resolve('k', from.k),
    v: resolve('v', from.v),
    mask: from.mask === undefined ? null : readMask(from.mask),
    y: Output.of('y', from.y),
  }))
  const { heads, causal, scale, save } = readProperties('options', options, FORWARD_OPTIONS, (from) => ({
    heads: checkCount('heads', from.heads, 1, Number.MAX_SAFE_INTEGER),
    causal: readFlag('causal', from.causal, false),
    scale: from.scale === undefined ? null : readFloat32('scale', from.scale, 1),
    save: readFlag('save', from.save, true),
  }))
  const { q, k, v } = inputs
  checkOperand('q', q)
  checkOperand('k', k)
  checkOperand('v', v)
  const problem = problemOf(q, k, v, heads, causal, scale)
  const { batch, keys, tokens } = problem
  if (mask !== null && mask.source !== null) checkHost('mask', mask.source)
  const keeps = mask === null ? null : checkKeyMask(mask, batch, keys)
  if (given !== null) {
    checkOperand('y', given.operand)
    checkLike('y', given.operand, 'q', q)
    for (const [name, input] of Object.entries(inputs)) refuseOverlap('y', given.operand, name, input)
    refuseOverlap('y', given.operand, 'mask', mask?.source)
    given.accumulate = false
  }

  const y = given ?? Output.fresh('y', 'float32', q.shape, null)
  const statistics: Part | null = save
    ? { memory: allocateOnHost('saved', 'float32', 2 * batch * heads * tokens), byteOffset: 0 }
    : null
  const call = { kind: ATTENTION, problem, operands: [q, k, v, keeps, y, statistics], placement: null }
  run({ calls: [call], placement: null })
  const saved =
    statistics === null ? undefined : savedOf({ problem, operands: [q, k, v, y.operand], mask: keeps, statistics })
  return { y: y.tensor, saved: saved as SavedOf<O, AttentionSaved> }
}

/**
 * The gradients of {@link attentionForward} from the gradient of its y. The probabilities are computed again from q, k and
 * what `saved` keeps. `saved` may be used again. Formulas: docs/attention.md.
 *
 * @param saved the result `saved` of attentionForward, whose operands and y must not have changed
 * @throws LilyError as attentionForward
 * @example
 * const { dq, dk, dv } = attentionBackward({ dy }, saved)
 */
export function attentionBackward<O extends Exact<O, AttentionBackwardOptions> = object>(
  operands: AttentionBackwardOperands,
  saved: AttentionSaved,
  options?: O,
): AttentionGradients<O> {
  const inputs = readProperties('operands', operands, BACKWARD_OPERANDS, (from) => ({
    dy: resolve('dy', from.dy),
    again: INPUTS.map((name) => resolveIfGiven(name, from[name])),
    gradients: GRADIENTS.map((name) => Output.of(name, from[name])),
  }))
  const settings = readProperties(
    'options',
    options === undefined ? {} : options,
    BACKWARD_OPTIONS,
    ({ needs, accumulate }) => ({
      needs: readNeeds(needs),
      accumulate: readFlag('accumulate', accumulate, true),
    }),
  )
  const state = readSaved(saved)
  const { problem, mask, statistics } = state
  const { dy } = inputs
  const given = inputs.again.map((operand, i) => operand ?? state.operands[i])
  for (const [i, name] of INPUTS.entries()) {
    checkOperand(name, given[i])
    checkLike(name, given[i], `the ${name} of forward`, state.operands[i])
  }
  checkOperand('dy', dy)
  checkLike('dy', dy, 'y', given[3])
  const outputs = inputs.gradients
  for (const [i, name] of GRADIENTS.entries()) {
    const output = outputs[i]?.operand
    if (output === undefined) continue
    if (!settings.needs[i]) {
      fail('ERR_LILY_ARGUMENT', name, `is given, but needs.${name} is false; leave out one of them`)
    }
    checkOperand(name, output)
    checkLike(name, output, INPUTS[i], given[i])
    refuseOverlap(name, output, 'dy', dy)
    for (const [j, other] of INPUTS.entries()) refuseOverlap(name, output, other, given[j])
    for (let j = 0; j < i; j++) refuseOverlap(name, output, GRADIENTS[j], outputs[j]?.operand)
  }

  const gradients = GRADIENTS.map((name, i) => {
    if (!settings.needs[i]) return null
    const output = outputs[i]
    if (output === null) return Output.fresh(name, 'float32', given[i].shape, null)
    output.accumulate = settings.accumulate
    return output
  })
  if (gradients.some((gradient) => gradient !== null)) {
    const [q, k, v, y] = given
    const all = [dy, q, k, v, mask, y, statistics, ...gradients]
    run({ calls: [{ kind: ATTENTION_BACKWARD, problem, operands: all, placement: null }], placement: null })
  }
  const [dq, dk, dv] = gradients.map((gradient) => gradient?.tensor)
  return { dq, dk, dv } as AttentionGradients<O>
}

function readNeeds(needs: unknown): readonly boolean[] {
  if (needs === undefined) return GRADIENTS.map(() => true)
  return readProperties('needs', needs, NEEDS, (from) =>
    GRADIENTS.map((name) => readFlag(`needs.${name}`, from[name], true)),
  )
}

function readSaved(saved: unknown): State {
  const state = stateOf(saved)
  if (state === undefined) {
    const got = describeOther(saved, 'AttentionSaved')
    fail('ERR_LILY_ARGUMENT', 'saved', `expected what attentionForward returned as saved, got ${got}`)
  }
  if (state !== null) return state
  throw new LilyError('ERR_LILY_DISPOSED', 'saved: has been disposed of; call backward before dispose()', {
    argument: 'saved',
  })
}

/** Checks an operand that is read or written: in host memory, which is valid, and float32. */
function checkOperand(argument: string, operand: Operand): void {
  checkHost(argument, operand)
  checkMemory(argument, operand)
  checkType(argument, operand, 'float32')
}

function checkHost(argument: string, { device }: Operand): void {
  if (device === CPU) return
  fail(
    'ERR_LILY_DEVICE',
    argument,
    `expected host memory, because attention runs on the cpu backend alone, got ${deviceText(device)}; await its ` +
      'toHost(), or use the attention of the library that computes there',
  )
}

function checkLike(argument: string, operand: Operand, other: string, { shape }: Operand): void {
  const given = operand.shape
  if (given.length === shape.length && given.every((size, axis) => size === shape[axis])) return
  fail('ERR_LILY_SHAPE', argument, `expected ${shapeText(shape)}, the shape of ${other}, got ${shapeText(given)}`)
}

function problemOf(
  q: Operand,
  k: Operand,
  v: Operand,
  heads: number,
  causal: boolean,
  scale: number | null,
): AttentionProblem {
  const { shape, columns } = q
  if (shape.length < 2 || shape.length > 3 || columns < 1) {
    fail(
      'ERR_LILY_SHAPE',
      'q',
      `expected [batch, tokens, d] or [tokens, d] with d of at least 1, got ${shapeText(shape)}`,
    )
  }
  const leading = shape.slice(0, -2)
  const expected = [...leading, 'keys', columns].join(', ')
  const isLike =
    k.shape.length === shape.length && leading.every((size, axis) => size === k.shape[axis]) && k.columns === columns
  if (!isLike) {
    fail('ERR_LILY_SHAPE', 'k', `expected [${expected}] (q has ${shapeText(shape)}), got ${shapeText(k.shape)}`)
  }
  checkLike('v', v, 'k', k)
  if (columns % heads !== 0) {
    fail(
      'ERR_LILY_ARGUMENT',
      'heads',
      `expected a number that divides d (each head has d / heads columns); d is ${columns}, got ${heads}`,
    )
  }
  const batch = leading.reduce((product, size) => product * size, 1)
  const [tokens, keys] = [shape[shape.length - 2], k.shape[k.shape.length - 2]]
  const dHead = columns / heads
  const problem = { batch, tokens, keys, heads, dHead, causal, scale: scale ?? 1 / Math.sqrt(dHead) }
  return { ...problem, sizes: attentionSizes(problem) }
}
