/** The fold of deferred gradients of b. */
import { checkExpertStack, checkTypeOrFloat32 } from '../base/checks.js'
import { fail } from '../base/errors.js'
import type { GpuCommandEncoder } from '../base/gpu-types.js'
import { elementsOf, type Known, readFlag, readProperties } from '../base/options.js'
import { shapeText } from '../base/shape.js'
import { checkDevice } from '../memory/backends.js'
import { checkPlace, checkSameDevice, refuseBuffer, refuseOverlap } from '../memory/checks.js'
import { checkAttached } from '../memory/operand.js'
import { Placement } from '../memory/placement.js'
import type { TensorLike } from '../tensor/resolve.js'
import { readStream } from '../tensor/stream-option.js'
import type { Stream } from '../tensor/stream.js'
import type { Tensor } from '../tensor/tensor.js'
import type { CallState } from './call-state.js'
import { Output } from './output.js'
import type { Problem } from './problem.js'
import { runFold } from './deferred-b.js'
import { type LilySaved, readSaved } from './saved.js'

/** Options of {@link foldB}. */
export interface FoldOptions {
  /** Add to the given db. Default true; false overwrites it. */
  readonly accumulate?: boolean | undefined
  /** The CUDA stream to run in, or its handle. Default: the stream of the operands. The cpu backend has no streams. */
  readonly stream?: Stream | bigint | number | undefined
  /** For operands on a GPUDevice: encode the call into this encoder, which the caller submits (docs/webgpu.md). */
  readonly encoder?: GpuCommandEncoder | undefined
}

const OPTIONS: Known = new Set(['accumulate', 'stream', 'encoder'])

/**
 * The gradient of b from backward calls with `deferB`: db_e += sum over the layers and their groups, both in order, of
 * w_ge D_g (docs/math.md#deferred-db). One fold for all layers that share b saves each layer from reading and writing
 * E*r*d_out numbers. The fold consumes the deferred gradients.
 *
 * @param saved one saved call, or the saved calls of all layers that share b; each must have a deferred gradient
 * @param db [E, r, d_out] or [E*r, d_out], accumulated in place. Without it a new tensor of the shape of b is returned
 * @throws LilyError ERR_LILY_ARGUMENT, ERR_LILY_SHAPE, ERR_LILY_DTYPE, ERR_LILY_DEVICE, ERR_LILY_DISPOSED,
 *   ERR_LILY_BACKEND_UNAVAILABLE, ERR_LILY_OUT_OF_MEMORY, ERR_LILY_CUDA. A call that throws at a check has written and
 *   consumed nothing
 * @returns `db`, or a new tensor of the shape of b
 * @example
 * for (const layer of layers) lilyBackward({ dy: layer.dy, dx, da }, layer.saved, { deferB: true })
 * const db = foldB(layers.map((layer) => layer.saved))
 */
export function foldB(saved: LilySaved | readonly LilySaved[], db?: TensorLike, options: FoldOptions = {}): Tensor {
  const states = readLayers(saved)
  const given = Output.of('db', db)
  const settings = readProperties('options', options, OPTIONS, (given) => ({
    accumulate: readFlag('accumulate', given.accumulate, true),
    stream: readStream(given.stream, given.encoder),
  }))

  const first = checkLayers(states)
  checkDevice('saved', first.b.device)
  const { experts, rank, dOut, b } = first
  if (given !== null) {
    checkPlace('db', given.operand, 'b', b)
    checkExpertStack('db', given.operand, experts, rank, dOut)
    checkTypeOrFloat32('db', given.operand, b.dtype)
    for (const { problem, kept, weights } of states) {
      refuseOverlap('db', given.operand, 'b', problem.b)
      refuseBuffer('db', given.operand, 'saved', kept)
      refuseBuffer('db', given.operand, 'saved.weights', weights?.memory ?? null)
    }
    given.accumulate = settings.accumulate
  }

  const deferred = states.flatMap((state) => state.deferred)
  const placement = Placement.of(b.device, settings.stream, () => [
    given?.operand,
    ...states.flatMap(({ located }) => located),
    ...deferred.flatMap(({ located }) => located),
  ])
  const output = given ?? Output.fresh('db', b.dtype, b.shape, placement)
  runFold(first, deferred, output, placement)
  for (const state of states) state.dropDeferred()
  return output.tensor
}

function readLayers(saved: unknown): CallState[] {
  const layers = elementsOf(saved)
  if (layers === null) return [readSaved('saved', saved, 'lilyForward')]
  return layers.map((layer, index) => readSaved(`saved[${index}]`, layer, 'lilyForward'))
}

/**
 * Checks that the layers share one b, and that each has a deferred gradient of it, whose weights are there. Returns the
 * problem of the first layer.
 */
function checkLayers(states: readonly CallState[]): Problem {
  if (states.length === 0) fail('ERR_LILY_ARGUMENT', 'saved', 'expected at least one saved call, got none')
  const { problem: first } = states[0]
  const { experts, rank, dOut, b } = first
  for (const [index, { problem, deferred }] of states.entries()) {
    const name = states.length === 1 ? 'saved' : `saved[${index}]`
    if (deferred.length === 0) {
      fail(
        'ERR_LILY_ARGUMENT',
        name,
        'has no deferred gradient; call lilyBackward with deferB: true first, and fold only once',
      )
    }
    if (problem.experts !== experts || problem.rank !== rank || problem.dOut !== dOut) {
      fail(
        'ERR_LILY_SHAPE',
        name,
        `expected the b that saved[0] has, ${shapeText([experts, rank, dOut])}, ` +
          `got ${shapeText([problem.experts, problem.rank, problem.dOut])}; fold layers that share one b`,
      )
    }
    checkSameDevice(name, problem.b, 'the b of saved[0]', b)
    for (const { partials, weights } of deferred) {
      if (partials > 0 && weights !== null) checkAttached(name, weights.memory)
    }
  }
  if (new Set(states).size !== states.length) fail('ERR_LILY_ARGUMENT', 'saved', 'a saved call is listed twice')
  return first
}
