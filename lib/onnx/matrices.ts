/** The matrices of an adapter, in the form by which the nodes of an ONNX model multiply. */
import type { AdapterLayer } from '../model/adapter-layer.js'
import type { AdapterModel } from '../model/adapter-model.js'
import type { LilyConfig } from '../model/lily-config.js'
import type { LilyLayer } from '../model/lily-layer.js'
import { LilyModel } from '../model/lily-model.js'
import { combinedProjector } from '../model/lora-export.js'
import { LORA_SUFFIX } from '../model/lora-layout.js'
import type { Parameter } from '../model/parameter.js'
import { DEFAULT_MODES } from '../operations/read.js'
import { toFloat32 } from '../tensor/numbers.js'
import type { Tensor } from '../tensor/tensor.js'
import type { Kind, LayerSizes, Mixture } from './layout.js'

/** A matrix of an adapter. Layers that share a parameter have the same object. */
export interface Matrix {
  /** The parameter's name. */
  readonly name: string
  /** Float32, row-major, in memory of its own. */
  readonly values: () => Promise<Float32Array>
}

/** The matrices of a layer. */
export interface LayerMatrices extends LayerSizes, Readonly<Record<'a' | 'b', Matrix>> {
  /** null: the weights of the experts are constant, and b is C. */
  readonly router: Matrix | null
  /** r and E. */
  readonly sizes: Sizes
}

/** The sizes in which adapters of one graph may differ. */
export interface Sizes {
  readonly rank: number
  readonly experts: number
}

/** An adapter, as a graph computes it. */
export interface Adapter extends Mixture {
  readonly sizes: Sizes
  /** By name, in the order of the model. */
  readonly layers: ReadonlyMap<string, LayerMatrices>
}

/**
 * The matrices of a model.
 *
 * @throws LilyError (as a rejection) ERR_LILY_DISPOSED; as `Tensor.toHost`
 */
export async function adapterOf(model: AdapterModel): Promise<Adapter> {
  model.allParameters() // fails if it is disposed of
  return model instanceof LilyModel ? lilyAdapter(model) : loraAdapter(model)
}

function loraAdapter(model: AdapterModel): Adapter {
  const layers = Array.from(model.layers.values(), (layer) => [layer.name, loraMatrices(layer)] as const)
  const { pool, activation } = DEFAULT_MODES
  return { routing: 'constant', pool, activation, sizes: { rank: 1, experts: 1 }, layers: new Map(layers) }
}

function loraMatrices({ a, b, scaling, inFeatures, outFeatures }: AdapterLayer): LayerMatrices {
  const [r] = a.value.shape
  const sizes = { rank: r, experts: 1 }
  return {
    ...{ inFeatures, outFeatures, sizes, router: null },
    a: { name: a.name, values: async () => transposed(await valuesOf(a.value), r) },
    b: { name: b.name, values: async () => transposed(await valuesOf(b.value), outFeatures, scaling) },
  }
}

async function lilyAdapter(model: LilyModel): Promise<Adapter> {
  const { routing, pool, activation, r, numB } = model.config
  const matrices = routedMatrices(model.config)
  const layers = new Map<string, LayerMatrices>()
  for (const layer of model.layers.values()) {
    const { name, inFeatures, outFeatures, a, router, b } = layer
    const weights = await layer.constantWeights()
    const sizes = { rank: r, experts: numB }
    layers.set(
      name,
      weights === undefined
        ? { inFeatures, outFeatures, sizes, a: matrices(a), router: matrices(router), b: matrices(b) }
        : constantMatrices(layer, weights),
    )
  }
  // A model with frozen layers and others has the routing of the others.
  const areConstant = [...layers.values()].every(({ router }) => router === null)
  return {
    routing: areConstant || routing === 'uniform' || routing === 'learned' ? 'constant' : routing,
    ...{ pool, activation, layers },
    sizes: { rank: r, experts: numB },
  }
}

/** Lily with constant weights is LoRA: h C with C = sum_e w_e B_e (docs/math.md). */
function constantMatrices(layer: LilyLayer, weights: Float32Array): LayerMatrices {
  const { name, inFeatures, outFeatures, a, b, scaling, config } = layer
  return {
    ...{ inFeatures, outFeatures, sizes: { rank: config.r, experts: 1 }, router: null },
    a: { name: `${name}.${LORA_SUFFIX.a}`, values: async () => transposed(await valuesOf(a.value), config.r) },
    b: {
      name: `${name}.${LORA_SUFFIX.b}`,
      values: async () => Float32Array.from(combinedProjector(await valuesOf(b.value), weights), (c) => scaling * c),
    },
  }
}

/** The parameters of layers with routers. [E*r, d_out] and [E, r*d_out] are the same memory. */
function routedMatrices({ r, numB, scaling }: LilyConfig): (parameter: Parameter) => Matrix {
  const values: Readonly<Record<Kind, (values: Float32Array) => Float32Array>> = {
    a: (values) => transposed(values, r),
    router: (values) => transposed(values, numB),
    b: (values) => values.map((value) => scaling * value),
  }
  const matrices = new Map<Parameter, Matrix>()
  return (parameter) => {
    const { name, kind } = parameter
    const matrix = matrices.get(parameter) ?? {
      name,
      values: async () => values[kind](await valuesOf(parameter.value)),
    }
    matrices.set(parameter, matrix)
    return matrix
  }
}

/** The numbers of a tensor: they may be its own memory. */
async function valuesOf(tensor: Tensor): Promise<Float32Array> {
  const { dtype, data } = await tensor.toHost()
  return toFloat32(dtype, data)
}

/** The transpose of a matrix of so many rows, times a factor. */
function transposed(values: Float32Array, rows: number, factor = 1): Float32Array {
  const columns = values.length / rows
  const result = new Float32Array(values.length)
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) result[j * rows + i] = factor * values[i * columns + j]
  return result
}
