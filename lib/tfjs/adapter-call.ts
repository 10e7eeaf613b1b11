/** A call of an adapter on the tape of TensorFlow.js: what `adapt` and `adaptedLinear` share. */
import { keep, type NamedTensorMap, scalar, type Tensor } from '@tensorflow/tfjs-core'
import { describe, fail } from '../base/errors.js'
import { checkKeys, type Known, readFlag } from '../base/options.js'
import type { AdapterForwardOptions, AdapterLayer } from '../model/adapter-layer.js'
import type { LayerForwardOptions } from '../model/lily-layer.js'
import type { FrozenWeight } from './frozen-weight.js'
import { checkTensor, isTensor, newTensor, share } from './memory.js'
import { type Gradients, refuseNested, runOperation } from './operation.js'
import { type Place, placeOn, type SmallName } from './place.js'
import { type RecordedCall, type Recording, recordingFor, release } from './recording.js'

/**
 * Options of {@link adapt}. All but `precision` and `training` are for Lily only. The model's config has the
 * defaults of `routing`, `pool` and `activation`; a call that is recorded must use them.
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
   * nothing is kept, and a gradient that passes through the adapter is an error. Only a call that is recorded has dropout, if
   * `model.training`.
   */
  readonly training?: boolean | undefined
}

/** Those that layers of LoRA do not have. */
const LILY_SETTINGS = ['routing', 'pool', 'activation', 'mask', 'sequenceOffsets', 'weights'] as const

/** Those that are passed on to `layer.forward`. */
const SETTINGS = [...LILY_SETTINGS, 'precision'] as const

export const ADAPT_OPTIONS: Known = new Set<keyof AdaptOptions>([...SETTINGS, 'training'])

/** What an adapter adds to. */
export interface Below {
  /** The output of its layer; null: the output of `weight`. */
  readonly base: Tensor | null
  readonly weight: FrozenWeight | null
  readonly bias: Tensor | undefined
}

/** A call whose arguments are read. */
export interface AdapterCall {
  readonly place: Place
  readonly layer: AdapterLayer
  /** The options of `layer.forward`, in which small operands may be tensors of TensorFlow.js. */
  readonly settings: Readonly<Record<string, unknown>>
  /** Null: the call keeps nothing. */
  readonly recording: Recording | null
}

export function checkLayer(layer: unknown): asserts layer is AdapterLayer {
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

/**
 * Reads the options of a call.
 *
 * @param known their names: {@link ADAPT_OPTIONS}, and those that the caller reads
 */
export function readCall(layer: AdapterLayer, options: AdaptOptions, known: Known): AdapterCall {
  checkKeys('options', options, known)
  const settings: Record<string, unknown> = {}
  for (const name of SETTINGS) {
    const value: unknown = options[name]
    if (value === undefined) continue
    if (name !== 'precision' && !('router' in layer)) failLora(layer, name, known)
    if (isTensor(value)) checkTensor(name, value, ['float32', 'int32', 'bool'])
    settings[name] = value
  }
  const recording = recordingFor(layer, readFlag('training', options.training, undefined))
  return { place: placeOn('layer', layer.a.value.device), layer, settings, recording }
}

function failLora({ name }: AdapterLayer, option: string, known: Known): never {
  const others = [...known].filter((one) => !LILY_SETTINGS.includes(one as 'mask'))
  fail(
    'ERR_LILY_ARGUMENT',
    option,
    `is no option for layer '${name}', which is LoRA and has the options ${others.join(', ')}; leave it out`,
  )
}

/**
 * Runs a call as an operation.
 *
 * @param shape of the result
 * @param inputs what its gradients are asked for, besides x and the parameters
 * @param gradients of `inputs`
 */
export function runAdapter(
  x: Tensor,
  below: Below,
  shape: number[],
  call: AdapterCall,
  inputs: NamedTensorMap,
  gradients: (dy: Tensor) => Gradients,
): Tensor {
  const { recording } = call
  if (recording === null) {
    const forward = () => {
      const { y, small } = addAdapter(x, below, shape, call)
      for (const tensor of small) tensor.dispose()
      return y
    }
    const evaluated = (dy: Tensor) => ({ ...gradients(dy), x: () => failEvaluated(call.layer) })
    return runOperation({ x, ...inputs }, { forward, gradients: evaluated })
  }

  const { anchor, calls } = recording
  let recorded: RecordedCall
  const forward = () => {
    const { y, saved, small } = addAdapter(x, below, shape, call)
    const { place, layer } = call
    const kept = { x: keep(share(x)), small: small.map((tensor) => keep(tensor)) }
    recorded = { place, layer, ...kept, saved: saved as RecordedCall['saved'], isDone: false }
    calls.push(recorded)
    return y
  }
  const backwards = (dy: Tensor) => ({
    ...gradients(dy),
    x: () => backward(recorded, dy, true) as Tensor,
    anchor: () => {
      if (!recorded.isDone) backward(recorded, dy, false)
      return scalar(0)
    },
  })
  // TensorFlow.js asks in the order of the inputs, and except for the anchor only if a variable reaches them.
  return runOperation({ x, ...inputs, anchor }, { forward, gradients: backwards })
}

function failEvaluated({ name }: AdapterLayer): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'training',
    `the gradient of x was asked for, but the call of layer '${name}' kept nothing for it; leave training out, and ` +
      'compute the gradient with variableGrads of lily-kernels/tfjs',
  )
}

/** Computes y. `small` are the tensors that `saved` refers to besides x. */
function addAdapter(x: Tensor, below: Below, shape: number[], { place, layer, settings, recording }: AdapterCall) {
  const options: Record<string, unknown> = { ...settings, save: recording !== null }
  const small: Tensor[] = []
  for (const [name, value] of Object.entries(settings)) {
    if (!isTensor(value)) continue
    const { operand, tensor } = place.small(name as SmallName, value)
    options[name] = operand
    if (tensor !== null) small.push(tensor)
  }
  const { base, weight, bias } = below
  const { operand, tensor: kernel } = weight?.operand() ?? {}
  if (kernel) small.push(kernel)
  let saved: RecordedCall['saved'] | undefined
  try {
    const y = place.compute(shape, base, bias === undefined ? [x] : [x, bias], (y, x, bias) => {
      const given: AdapterForwardOptions = { ...options, accumulate: base !== null }
      saved = layer.forward({ x, weight: operand, bias, y }, given).saved
    })
    return { y, small, saved }
  } catch (cause) {
    for (const tensor of small) tensor.dispose()
    throw cause
  }
}

/** Adds to the gradients of the parameters. Returns the gradient of x if it is needed. */
function backward(call: RecordedCall, dy: Tensor, needsDx: boolean): Tensor | undefined {
  refuseNested()
  const { place, layer, x, saved } = call
  // x is passed again, because the memory that forward has read may have moved.
  let dx: Tensor | undefined
  if (needsDx) {
    dx = newTensor(
      place.compute(x.shape, null, [x, dy], (dx, x, dy) => {
        layer.backward({ dy, saved, x, dx }, { accumulate: false })
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
