/** The adapter of a layer as an operation of TensorFlow.js. */
import { keep, scalar, type Tensor } from '@tensorflow/tfjs-core'
import { checkTokenRows } from '../base/checks.js'
import { describe, fail } from '../base/errors.js'
import { checkKeys, get, type Known, readFlag } from '../base/options.js'
import type { AdapterForwardOptions, AdapterLayer } from '../model/adapter-layer.js'
import type { LayerForwardOptions } from '../model/lily-layer.js'
import { checkFloat32, checkTensor, newTensor, share } from './memory.js'
import { refuseNested, runOperation } from './operation.js'
import { type Place, placeOn, type SmallName } from './place.js'
import { type RecordedCall, type Recording, recordingFor, release } from './recording.js'

/**
 * Options of {@link adapt}. All but `precision` and `training` are for Lily only. The defaults of `routing`, `pool` and
 * `activation` are those of the model's config, which a call that is recorded must have.
 */
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
 * @throws LilyError as `layer.forward`; ERR_LILY_DTYPE if the parameters are not float32; ERR_LILY_DEVICE if the model is not
 *   where TensorFlow.js computes: in host memory, or on the GPUDevice of its webgpu backend; ERR_LILY_ARGUMENT if TensorFlow.js
 *   records a gradient by itself, which would drop those of the parameters: use {@link variableGrads} or
 *   {@link AdapterOptimizer}, or pass `training: false`
 * @example
 * const y = adapt(x, tf.matMul(x, kernel), model.layer('layers.0.proj'), { mask })
 */
export function adapt<T extends Tensor>(x: Tensor, base: T, layer: AdapterLayer, options: AdaptOptions = {}): T {
  checkFloat32('x', x)
  checkFloat32('base', base)
  checkLayer(layer)
  checkBase(base, x, layer.outFeatures)
  checkKeys('options', options, OPTIONS)
  const settings = readSettings(options)
  const recording = recordingFor(layer, readFlag('training', get('options', options, 'training'), undefined))
  const call = { place: placeOn('layer', layer.a.value.device), layer, settings }
  return recording === null ? evaluate(x, base, call) : record(recording, x, base, call)
}

/** A call whose arguments are read. */
interface Call {
  readonly place: Place
  readonly layer: AdapterLayer
  /** The options of `layer.forward`, in which small operands may be tensors of TensorFlow.js. */
  readonly settings: Readonly<Record<string, unknown>>
}

function checkLayer(layer: unknown): asserts layer is AdapterLayer {
  // A layer of LilyAdapters has no parameters of its own.
  const { forward, backward, a } = (layer ?? {}) as Partial<AdapterLayer>
  if (typeof forward !== 'function' || typeof backward !== 'function' || a === undefined) {
    fail(
      'ERR_LILY_ARGUMENT',
      'layer',
      `expected model.layer(name) of a LilyModel or a LoraModel, got ${describe(layer)}`,
    )
  }
  const { dtype } = a.value
  if (dtype === 'float32') return
  fail(
    'ERR_LILY_DTYPE',
    'layer',
    `expected float32 parameters, since TensorFlow.js has no 16-bit types, got ${dtype}; cast them into a float32 model`,
  )
}

/** `layer.forward` calls it y. */
function checkBase({ shape }: Tensor, x: Tensor, outFeatures: number): void {
  const matrix = { shape, rows: tokensOf(shape), columns: shape.at(-1) ?? 0, dtype: 'float32' } as const
  checkTokenRows('base', matrix, tokensOf(x.shape), outFeatures)
}

function tokensOf(shape: readonly number[]): number {
  return shape.slice(0, -1).reduce((product, size) => product * size, 1)
}

/** The options of `layer.forward`: LoRA refuses those that it does not have, so that only those given are passed on. */
function readSettings(options: AdaptOptions): Call['settings'] {
  const settings: Record<string, unknown> = {}
  for (const name of OPTIONS) {
    const value = name === 'training' ? undefined : get('options', options, name)
    if (value === undefined) continue
    if (isTensor(value)) checkTensor(name, value, ['float32', 'int32', 'bool'])
    settings[name] = value
  }
  return settings
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'dataId' in value
}

function evaluate<T extends Tensor>(x: Tensor, base: T, call: Call): T {
  const gradients = (dy: Tensor) => ({
    x: () => failEvaluated(call.layer),
    base: () => share(dy),
  })
  const forward = () => {
    const { y, small } = addAdapter(x, base, call, false)
    for (const tensor of small) tensor.dispose()
    return y
  }
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

function record<T extends Tensor>({ anchor, calls }: Recording, x: Tensor, base: T, given: Call): T {
  let call: RecordedCall
  const forward = () => {
    const { y, saved, small } = addAdapter(x, base, given, true)
    const { place, layer } = given
    call = { place, layer, x: keep(share(x)), small: small.map((tensor) => keep(tensor)), saved, isDone: false }
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

/** Adds the adapter to a copy of base. `small` are the tensors that `saved` refers to besides x. */
function addAdapter(x: Tensor, base: Tensor, { place, layer, settings }: Call, save: boolean) {
  const options: Record<string, unknown> = { ...settings, save }
  const small: Tensor[] = []
  for (const [name, value] of Object.entries(settings)) {
    if (!isTensor(value)) continue
    const { operand, tensor } = place.small(name as SmallName, value)
    options[name] = operand
    if (tensor !== null) small.push(tensor)
  }
  const given: AdapterForwardOptions = options
  let saved: RecordedCall['saved'] | undefined
  try {
    const y = place.compute(base.shape, base, [x], (y, x) => {
      saved = layer.forward({ x, y }, given).saved
    })
    return { y, small, saved: saved as RecordedCall['saved'] }
  } catch (cause) {
    for (const tensor of small) tensor.dispose()
    throw cause
  }
}

/** Adds to the gradients of the parameters. Returns that of x if it is needed. */
function backward(call: RecordedCall, dy: Tensor, needsDx: boolean): Tensor | undefined {
  refuseNested()
  const { place, layer, x, saved } = call
  // x is passed again, because the memory that forward has read may have moved.
  let dx: Tensor | undefined
  if (needsDx) {
    dx = newTensor(
      place.compute(x.shape, null, [x, dy], (dx, x, dy) => {
        layer.backward({ dy, saved, x, dx })
      }),
    )
  } else {
    place.read([x, dy], (x, dy) => {
      layer.backward({ dy, saved, x }, { needs: { dx: false } })
    })
  }
  call.isDone = true
  release(call)
  return dx
}
