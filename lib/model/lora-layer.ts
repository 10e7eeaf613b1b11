/** One adapted layer of a {@link LoraModel}. */
import { fail } from '../base/errors.js'
import type { Exact, Known } from '../base/options.js'
import { inspectSymbol } from '../base/symbols.js'
import { CPU } from '../memory/device.js'
import type { Operand } from '../memory/operand.js'
import type { BackwardCall, ForwardCall } from '../operations/allocate.js'
import { type GradientOf, prepareBackward } from '../operations/backward.js'
import type { CallState } from '../operations/call-state.js'
import { LORA_FORWARD_OPTIONS, LORA_NEEDS, loraForward, loraProblem, prepareForward } from '../operations/lora.js'
import { type BackwardSettings, DEFAULT_MODES, type ForwardSettings } from '../operations/read.js'
import type { ParameterGradients, RowsAdapter } from '../operations/rows.js'
import { runForward } from '../operations/run.js'
import { type LoraSaved, readSaved } from '../operations/saved.js'
import { toFloat32 } from '../tensor/numbers.js'
import { resolve } from '../tensor/resolve.js'
import { type Tensor, tensor } from '../tensor/tensor.js'
import {
  type AdapterBackwardOperands,
  type AdapterBackwardOptions,
  type AdapterForwardOperands,
  type AdapterForwardOptions,
  type AdapterForwardResult,
  AdapterLayer,
  gradientOf,
  type LayerBackwardInputs,
  type LayerForwardInputs,
  readLayerBackward,
  readLayerForward,
} from './adapter-layer.js'
import type { ModelDropout } from './dropout.js'
import type { LoraLayerShape } from './lora-layout.js'
import { addUpdate } from './merge.js'
import type { Parameter } from './parameter.js'

/** Result of {@link LoraLayer.forward}. */
export type LoraLayerResult<O> = AdapterForwardResult<O, LoraSaved>

// The layer has the scaling.
const OPTIONS: Known = new Set([...LORA_FORWARD_OPTIONS].filter((name) => name !== 'scaling' && name !== 'encoder'))
const BACKWARD_OPTIONS: Known = new Set<keyof AdapterBackwardOptions>(['needs', 'retain', 'accumulate', 'stream'])

/** The LoRA adapter of one linear layer: y += scaling * (x A^T) B^T. */
export class LoraLayer extends AdapterLayer {
  /** Name, sizes, target, rank and scaling of the layer, and the names of its parameters. */
  declare readonly shape: LoraLayerShape

  /** @internal */
  constructor(
    shape: LoraLayerShape,
    a: Parameter,
    b: Parameter,
    private readonly fanInFanOut: boolean,
    dropout: ModelDropout,
  ) {
    super(shape, shape.scaling, a, b, dropout)
  }

  /** Rank. */
  get r(): number {
    return this.shape.r
  }

  /**
   * {@link loraForward} with the layer's parameters.
   *
   * @throws LilyError as loraForward; ERR_LILY_ARGUMENT if the layer is merged
   */
  override forward<O extends Exact<O, AdapterForwardOptions> = object>(
    operands: AdapterForwardOperands,
    options?: O,
  ): LoraLayerResult<O> {
    return runForward(this.prepareForward(readLayerForward(operands, options, OPTIONS))) as LoraLayerResult<O>
  }

  /** @internal */
  override prepareForward({ x, weight, bias, y, settings }: LayerForwardInputs): ForwardCall {
    this.checkNotMerged()
    this.checkInput(x)
    const { a, router, b, settings: own } = this.operationOf(settings)
    const dropout = this.dropout.of(settings)
    return prepareForward({ x, weight, bias, a, router, b, y }, { ...settings, ...own, dropout })
  }

  /** @internal */
  override operationOf(settings: ForwardSettings<null>): RowsAdapter {
    checkNoRouting(settings)
    const { routing, pool, activation } = DEFAULT_MODES
    return {
      a: resolve('a', this.a.value),
      router: null,
      b: resolve('b', this.b.value),
      settings: { routing, pool, activation, weights: null, scaling: this.scaling },
      problemOf: loraProblem,
    }
  }

  /**
   * {@link loraBackward} for a call of {@link forward}. The gradients of the parameters accumulate in
   * `model.parameters()` until `zeroGrad`.
   *
   * @returns the gradient of x, which includes dy weight if forward had a `weight`; undefined with `needs: { dx: false }`
   * @throws LilyError as loraBackward; ERR_LILY_ARGUMENT if `saved` is not from this layer, or from before the model
   *   was moved
   */
  override backward<O extends Exact<O, AdapterBackwardOptions> = object>(
    operands: AdapterBackwardOperands<LoraSaved>,
    options?: O,
  ): GradientOf<O, 'dx'> {
    const call = this.prepareBackward(readLayerBackward(operands, options, BACKWARD_OPTIONS, LORA_NEEDS))
    return this.runBackward(call).dx as GradientOf<O, 'dx'>
  }

  /** @internal */
  override prepareBackward({ dy, saved, x, dx, settings }: LayerBackwardInputs): BackwardCall {
    const state = readSaved('saved', saved, 'loraForward')
    const gradients = this.gradientsOf(state, settings.needs)
    if (settings.deferB === true) fail('ERR_LILY_ARGUMENT', 'deferB', NO_OPTION)
    return prepareBackward(state, { dy, x, dx, ...gradients, dWeights: null }, { ...settings, deferB: false })
  }

  /** @internal */
  override gradientsOf(state: CallState, needs: BackwardSettings['needs']): ParameterGradients {
    this.checkParameters(state, null)
    return { da: gradientOf('da', needs.da, this.a), dRouter: null, db: gradientOf('db', needs.db, this.b) }
  }

  /** @internal GPT-2 in Transformers stores the transpose. */
  override get weightShape(): readonly [number, number] {
    const { inFeatures, outFeatures } = this
    return this.fanInFanOut ? [inFeatures, outFeatures] : [outFeatures, inFeatures]
  }

  /** @internal Of LoRA every update is such a matrix. */
  override checkUpdate(): void {
    // Nothing to check.
  }

  /** @internal */
  override checkWeight(argument: string, weight: Operand): void {
    super.checkWeight(argument, weight)
    if (!this.fanInFanOut || this.a.value.device === CPU) return
    fail(
      'ERR_LILY_ARGUMENT',
      argument,
      `expected a model on the host to merge '${this.name}' into a weight [d_in, d_out] (fanInFanOut); call toHost() first`,
    )
  }

  /** @internal */
  override addUpdate(weight: Operand, sign: 1 | -1): void {
    const { a, b, fanInFanOut } = this
    const options = { scaling: sign * this.scaling, precision: 'high' } as const
    addUpdate(weight, {
      // The update of a transposed weight is s A^T B^T.
      a: fanInFanOut ? transposed(b) : a.value,
      b: fanInFanOut ? transposed(a) : b.value,
      of: 'loraForward',
      forward: (operands) => loraForward(operands, options),
    })
  }

  [inspectSymbol](): string {
    return this.summary('LoraLayer', `r ${this.r}, scaling ${this.scaling}`)
  }
}

const NO_OPTION = 'is no option of LoRA, whose layers have one B each and no router; leave it out'

/** Several adapters read one list of options, and Lily's layers have more options than LoRA's. */
function checkNoRouting(settings: ForwardSettings<null>): void {
  const { routing, mask, sequenceOffsets, weights, pool, activation } = settings
  if ((routing ?? mask ?? sequenceOffsets ?? weights ?? pool ?? activation) === null) return
  const names = ['routing', 'mask', 'sequenceOffsets', 'weights', 'pool', 'activation'] as const
  for (const name of names) if (settings[name] !== null) fail('ERR_LILY_ARGUMENT', name, NO_OPTION)
}

/** The transpose of a parameter on the host, in float32. The kernels have no transposition, so that the host computes it. */
function transposed({ value }: Parameter): Tensor {
  const [rows, columns] = value.shape
  const numbers = toFloat32(value.dtype, value.data)
  const data = new Float32Array(numbers.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) data[j * rows + i] = numbers[i * columns + j]
  return tensor(data, [columns, rows])
}
