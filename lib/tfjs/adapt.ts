/** The adapter of a layer as an operation of TensorFlow.js. */
import { keep, scalar, type Tensor } from '@tensorflow/tfjs-core'
import { describe, fail } from '../base/errors.js'
import { checkKeys, get, type Known, readFlag } from '../base/options.js'
import type { AdapterLayer } from '../model/adapter-layer.js'
import type { LayerForwardOptions } from '../model/lily-layer.js'
import { checkFloat32, checkTensor, computeTensor, newTensor, readTensors, share } from './memory.js'
import { refuseNested, runOperation } from './operation.js'
import { type RecordedCall, type Recording, recordingFor, release } from './recording.js'

/** Options of {@link adapt}. All but `precision` and `training` are for Lily only. */
export interface AdaptOptions extends Pick<LayerForwardOptions, 'routing' | 'pool' | 'activation' | 'precision'> {
  /**
   * [M], or the leading dimensions of x, such as [batch, sequence]: a token with 0 does not count in the pooling. A
   * tensor of type bool, int32 or float32, or any other form that `lilyForward` accepts.
   */
  readonly mask?: Tensor | LayerForwardOptions['mask']
  /** `[G + 1]`: cumulative offsets of sequences, in an int32 tensor or another form. Default: the rows of a 3-D x. */
  readonly sequenceOffsets?: Tensor | LayerForwardOptions['sequenceOffsets']
  /** [E] or [G, E], for fixed routing, in a float32 tensor or another form. */
  readonly weights?: Tensor | LayerForwardOptions['weights']
  /**
   * Whether the call is recorded for backward. Default: inside `variableGrads` it is, elsewhere it is not. With false
   * nothing is kept, and a gradient that passes through the adapter is an error.
   */
  readonly training?: boolean | undefined
}

const OPTIONS: Known = new Set<keyof AdaptOptions>([
  'routing',
  'pool',
  'activation',
  'precision',
  'mask',
  'sequenceOffsets',
  'weights',
  'training',
])

/**
 * Adds the adapter of a layer to the output of the frozen layer: base + adapter(x). It is differentiable in x and base;
 * the gradients of the adapter's parameters add up in `model.parameters()`.
 *
 * @param x [..., d_in], float32: the input of the layer, usually [tokens, d_in] or [batch, sequence, d_in]
 * @param base [..., d_out], float32: the output of the frozen layer for x. It does not change
 * @param layer `model.layer(name)` of a LilyModel or a LoraModel
 * @returns a new tensor of the shape of base
 * @throws LilyError as `layer.forward`; ERR_LILY_ARGUMENT if TensorFlow.js records a gradient by itself, which would drop
 *   those of the parameters: use {@link variableGrads} or {@link AdapterOptimizer}, or pass `training: false`
 * @example
 * const y = adapt(x, tf.matMul(x, kernel), model.layer('layers.0.proj'), { routing: 'sequence', mask })
 */
export function adapt<T extends Tensor>(x: Tensor, base: T, layer: AdapterLayer, options: AdaptOptions = {}): T {
  checkFloat32('x', x)
  checkFloat32('base', base)
  checkLayer(layer)
  checkKeys('options', options, OPTIONS)
  const settings = readSettings(options)
  const recording = recordingFor(layer, readFlag(options, 'training', undefined))
  return recording === null ? evaluate(x, base, layer, settings) : record(recording, x, base, layer, settings)
}

function checkLayer(layer: unknown): asserts layer is AdapterLayer {
  const { forward, backward } = (layer ?? {}) as Partial<AdapterLayer>
  if (typeof forward === 'function' && typeof backward === 'function') return
  fail('ERR_LILY_ARGUMENT', 'layer', `expected model.layer(name), got ${describe(layer)}`)
}

/** The options of `layer.forward`: LoRA refuses those that it does not have, so that only those given are passed on. */
function readSettings(options: AdaptOptions): LayerForwardOptions {
  const settings: Record<string, unknown> = {}
  for (const name of OPTIONS) {
    const value = name === 'training' ? undefined : get('options', options, name)
    if (value !== undefined) settings[name] = isTensor(value) ? numbersOf(name, value) : value
  }
  return settings
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'dataId' in value
}

/** A small operand. `layer.forward` copies it, and checks which of these types it may have. */
function numbersOf(argument: string, tensor: Tensor): { data: unknown; shape: number[] } {
  checkTensor(argument, tensor, ['float32', 'int32', 'bool'])
  return { data: tensor.dataSync(), shape: tensor.shape }
}

function evaluate<T extends Tensor>(x: Tensor, base: T, layer: AdapterLayer, settings: LayerForwardOptions): T {
  const gradients = (dy: Tensor) => ({
    x: () => failEvaluated(layer),
    base: () => share(dy),
  })
  const forward = () => addAdapter(x, base, layer, { ...settings, save: false }).y
  return runOperation({ x, base }, { forward, gradients }) as T
}

function failEvaluated({ name }: AdapterLayer): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'training',
    `the gradient of x was asked for, but the call of layer '${name}' kept nothing for it; leave training out, and ` +
      'compute the gradient with variableGrads of lily-kernels/tfjs',
  )
}

function record<T extends Tensor>(
  { anchor, calls }: Recording,
  x: Tensor,
  base: T,
  layer: AdapterLayer,
  settings: LayerForwardOptions,
): T {
  let call: RecordedCall
  const forward = () => {
    const { y, saved } = addAdapter(x, base, layer, { ...settings, save: true })
    call = { layer, x: keep(share(x)), saved, isDone: false }
    calls.push(call)
    return y
  }
  const gradients = (dy: Tensor) => ({
    // TensorFlow.js asks in this order, and for those of x and base only if a variable reaches them.
    x: () => backward(call, dy, true) as Tensor,
    base: () => share(dy),
    anchor: () => {
      if (!call.isDone) backward(call, dy, false)
      return scalar(0)
    },
  })
  return runOperation({ x, base, anchor }, { forward, gradients }) as T
}

/** Adds the adapter to a copy of base. */
function addAdapter(x: Tensor, base: Tensor, layer: AdapterLayer, options: LayerForwardOptions & { save: boolean }) {
  let saved: RecordedCall['saved'] | undefined
  const y = computeTensor([x, base], base.shape, (output, x, base) => {
    output.data.set(base.data)
    saved = layer.forward(x, output, options).saved
  })
  return { y, saved: saved as RecordedCall['saved'] }
}

/** Adds to the gradients of the parameters. Returns that of x if it is needed. */
function backward(call: RecordedCall, dy: Tensor, needsDx: boolean): Tensor | undefined {
  refuseNested()
  const { layer, x, saved } = call
  // x is passed again, because the memory that forward has read may have moved.
  let dx: Tensor | undefined
  if (needsDx) {
    dx = newTensor([x, dy], x.shape, (dx, x, dy) => {
      dx.data.fill(0)
      layer.backward(dy, saved, { x, dx })
    })
  } else {
    readTensors([x, dy], (x, dy) => {
      layer.backward(dy, saved, { x, needs: { dx: false } })
    })
  }
  call.isDone = true
  release(call)
  return dx
}
