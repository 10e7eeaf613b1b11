/** The linear layers of a base model, as the caller describes them. */
import { describe, fail } from '../base/errors.js'
import { checkCount, checkKeys, elementsOf, type Known } from '../base/options.js'

/** A linear layer of the base model. Its weight is [outFeatures, inFeatures], as in torch.nn.Linear. */
export interface LayerShape {
  /** Name as in PyTorch's named_modules(), such as 'model.layers.0.self_attn.q_proj'. */
  readonly name: string
  /** d_in, at least 1. */
  readonly inFeatures: number
  /** d_out, at least 1. */
  readonly outFeatures: number
}

const LAYER: Known = new Set<keyof LayerShape>(['name', 'inFeatures', 'outFeatures'])

/**
 * Copies the layers that the caller passed.
 *
 * @throws LilyError ERR_LILY_ARGUMENT
 */
export function readLayers(shapes: unknown): LayerShape[] {
  const given = elementsOf(shapes)
  if (given === null) {
    fail('ERR_LILY_ARGUMENT', 'layers', `expected [{ name, inFeatures, outFeatures }], got ${describe(shapes)}`)
  }
  const names = new Set<string>()
  return given.map((shape, index) => {
    const argument = `layers[${index}]`
    checkKeys(argument, shape, LAYER)
    const features = (key: string) => checkCount(`${argument}.${key}`, shape[key], 1, Number.MAX_SAFE_INTEGER)
    const { name } = shape
    // PyTorch has no such modules, and PEFT no target without a name: a folder with one could not be read again.
    if (typeof name !== 'string' || name.split('.').includes('')) {
      fail(
        'ERR_LILY_ARGUMENT',
        `${argument}.name`,
        `expected a name whose components are not empty, such as 'layers.0.q_proj', got ${describe(name)}`,
      )
    }
    if (names.has(name))
      fail('ERR_LILY_ARGUMENT', `${argument}.name`, `expected unique names, got '${name}' twice; remove one`)
    names.add(name)
    return {
      name,
      inFeatures: features('inFeatures'),
      outFeatures: features('outFeatures'),
    }
  })
}
