/** Models and tensors on the backend under test. */
import {
  type AdapterBackwardOptions,
  type AdapterModel,
  type AdapterSaved,
  type LayerBackwardOptions,
  LilyModel,
  type LilyModelOptions,
  LoraModel,
  type LoraModelOptions,
  type Tensor,
  tensor,
  type TensorLike,
} from '../../lib/index.js'
import { backend } from './backend.js'
import { testDevice } from './device-array.js'
import { type Float, pack, unpack } from './dtypes.js'

/** A tensor on the backend under test, rounded to a type. */
export function place(values: ArrayLike<number>, shape: readonly number[], dtype: Float = 'float32'): Tensor {
  const host = tensor(pack(dtype, values), shape, dtype)
  return host.to(testDevice(backend))
}

/** The numbers of a tensor on any device. */
export async function numbersOf(value: TensorLike | undefined): Promise<Float32Array> {
  const { dtype, data } = await (value as Tensor).toHost()
  return unpack(dtype, data)
}

/** A model on the backend under test. */
export function createModel(options: LilyModelOptions): LilyModel {
  return moved(LilyModel.create(options))
}

export function createLora(options: LoraModelOptions): LoraModel {
  return moved(LoraModel.create(options))
}

export function moved<M extends AdapterModel>(model: M): M {
  return model.to(testDevice(backend))
}

/** Sets the values of parameters. */
export async function setValues(model: AdapterModel, valueOf: (name: string, index: number) => number): Promise<void> {
  await model.toHost()
  for (const [name, { value }] of model.parameters()) {
    const numbers = Float32Array.from({ length: value.data.length }, (_, index) => valueOf(name, index))
    ;(value.data as Float32Array).set(pack(value.dtype as Float, numbers))
  }
  moved(model)
}

/** The projections of a transformer as layers, in the order of PyTorch's named_modules. */
export function projections(layers: number, sizes: Readonly<Record<string, readonly [number, number]>>) {
  return Array.from({ length: layers }, (_, l) =>
    Object.entries(sizes).map(([name, [inFeatures, outFeatures]]) => ({
      name: `model.layers.${l}.self_attn.${name}`,
      inFeatures,
      outFeatures,
    })),
  ).flat()
}

/** A chain of residual layers, x_l+1 = x_l + adapter_l(x_l), as in the golden case. */
export async function runChain(
  model: AdapterModel,
  input: ArrayLike<number>,
  shape: number[],
  gradient: ArrayLike<number>,
  options: LayerBackwardOptions = {},
) {
  const layers = [...model.layers.values()]
  const outputs: Float32Array[] = []
  const saved: AdapterSaved[] = []
  let x = place(input, shape)
  for (const layer of layers) {
    const y = place(await numbersOf(x), shape)
    saved.push(layer.forward({ x, y }).saved)
    outputs.push(await numbersOf(y))
    x = y
  }
  const dx = place(gradient, shape)
  for (const [l, layer] of [...layers.entries()].reverse()) {
    const dy = place(await numbersOf(dx), shape)
    // Those of Lily go to layers of Lily only.
    const given: AdapterBackwardOptions = options
    layer.backward({ dy, saved: saved[l], dx }, given)
    saved[l].dispose()
  }
  return { outputs, dx: await numbersOf(dx) }
}
