/** The weights of the base model into which layers are merged: one weight, or the weights of all layers. */
import { describe, fail } from '../base/errors.js'
import { entriesOf, isMap, isPlain, type Known, type Named, readFlag, readProperties } from '../base/options.js'
import { quoteSome } from '../checkpoint/errors.js'
import { type NamedOperand, refuseOverlaps } from '../memory/checks.js'
import type { Operand } from '../memory/operand.js'
import { resolve, type TensorLike } from '../tensor/resolve.js'
import { operandOf } from '../tensor/tensor.js'
import type { AdapterLayer } from './adapter-layer.js'
import { checkFiniteOnHost } from './merge.js'
import type { Parameter } from './parameter.js'

/** Options of {@link AdapterModel.merge} and {@link AdapterModel.unmerge} with the weights of several layers. */
export interface MergeOptions {
  /** Whether layers may be left out. Default false: an adapted layer without a weight is an error. */
  readonly subset?: boolean | undefined
}

const OPTIONS: Known = new Set<keyof MergeOptions>(['subset'])

/** A layer and the weight of its base layer. */
interface Target {
  readonly layer: AdapterLayer
  /** What an error calls the weight. */
  readonly argument: string
  readonly weight: Operand
}

/** What a call of merge or unmerge changes. */
export interface Merging {
  readonly targets: readonly Target[]
  /** The argument that names the layers. */
  readonly names: 'name' | 'weights'
}

/** Whether a call has the weights of several layers, and not the name of one. */
export function isNamed(value: unknown): value is Named<TensorLike> {
  return isMap(value) || isPlain(value)
}

/**
 * Reads the weights of several layers.
 *
 * @throws LilyError ERR_LILY_ARGUMENT for names of other layers, and for layers without a weight, which the message lists
 */
export function readMerging(
  layers: ReadonlyMap<string, AdapterLayer>,
  weights: Named<TensorLike>,
  options: unknown = {},
): Merging {
  const given = entriesOf('weights', weights)
  if (given.length === 0) fail('ERR_LILY_ARGUMENT', 'weights', `expected at least one weight, got ${describe(weights)}`)
  const isSubset = readProperties('options', options, OPTIONS, ({ subset }) => readFlag('subset', subset, false))
  const names = new Set(given.map(([name]) => name))
  const unknown = [...names].filter((name) => !layers.has(name))
  const missing = isSubset ? [] : [...layers.keys()].filter((name) => !names.has(name))
  if (unknown.length > 0 || missing.length > 0) refuseNames(layers, unknown, missing)
  const targets = given.map(([name, weight]) => {
    const argument = `weights['${name}']`
    return { layer: layers.get(name) as AdapterLayer, argument, weight: resolve(argument, weight) }
  })
  return { targets, names: 'weights' }
}

function refuseNames(
  layers: ReadonlyMap<string, AdapterLayer>,
  unknown: readonly string[],
  missing: readonly string[],
): never {
  const [first] = layers.keys()
  const parts: string[] = []
  if (unknown.length > 0) parts.push(`${quoteSome(unknown)}, which it does not adapt`)
  if (missing.length > 0) parts.push(`none for ${quoteSome(missing)}`)
  const advice = missing.length > 0 && unknown.length === 0 ? '; add them, or pass { subset: true }' : ''
  fail(
    'ERR_LILY_ARGUMENT',
    'weights',
    `expected a weight for each layer that the model adapts, such as '${first}', got ${parts.join(', and ')}${advice}`,
  )
}

/**
 * Checks all layers and weights. Two layers cannot be merged into one weight, as into one that the base model ties: it would
 * have the sum of their updates, and so would both layers.
 *
 * @param parameters those that no weight may overlap
 */
export function checkMerging({ targets, names }: Merging, parameters: Iterable<Parameter>): void {
  for (const { layer, argument, weight } of targets) {
    layer.checkWeight(argument, weight)
    layer.checkUpdate(names)
  }
  const outputs = targets.map(({ argument, weight }) => ({ name: argument, operand: weight }))
  refuseOverlaps(outputs, Array.from(parameters, operandOfParameter))
  checkFiniteOnHost([...new Set(targets.flatMap(({ layer }) => layer.updating))])
}

function operandOfParameter({ name, value }: Parameter): NamedOperand {
  return { name, operand: operandOf(value) as Operand }
}
