import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readSafetensors } from './safetensors.js'

/**
 * A PEFT Lily adapter. The file repeats shared tensors once per layer; here layers that share a tensor get the same
 * object, so that their gradients meet in one place: A is shared by `stride_A` neighbouring layers of a target, B by
 * all layers of a target, and every layer has its own router.
 *
 * @param {string} folder what PEFT's save_pretrained wrote
 * @param {number} layers of the model
 */
export function readAdapter(folder, layers) {
  const config = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'))
  const stored = readSafetensors(join(folder, 'adapter_model.safetensors'))
  const parameters = new Map()

  function parameter(layer, target, part, owner) {
    const nameIn = (l) => `base_model.model.layers.${l}.self_attn.${target}.lily_${part}.weight`
    const name = nameIn(owner)
    const value = stored.get(name)
    if (!value) throw new Error(`${folder} has no ${name}`)
    if (!stored.get(nameIn(layer))?.data.every((number, i) => number === value.data[i])) {
      throw new Error(`${nameIn(layer)} should equal ${name}, which it shares`)
    }
    if (!parameters.has(name)) {
      const grad = { data: new Float32Array(value.data.length), shape: value.shape }
      parameters.set(name, { name, value, grad })
    }
    return parameters.get(name)
  }

  const adapters = Array.from({ length: layers }, (_, layer) =>
    Object.fromEntries(
      config.target_modules.map((target) => [
        target,
        {
          scaling: config.scaling,
          a: parameter(layer, target, 'A', layer - (layer % config.stride_A)),
          router: parameter(layer, target, 'router', layer),
          b: parameter(layer, target, 'B', 0),
        },
      ]),
    ),
  )
  return { adapters, parameters }
}
