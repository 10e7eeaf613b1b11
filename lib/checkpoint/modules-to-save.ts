/** Tensors that travel with an adapter, such as a classifier's head: PEFT's modules_to_save. */
import { viewOf } from '../base/dtype.js'
import { fail } from '../base/errors.js'
import { entriesOf, type Named } from '../base/options.js'
import { PatternWork } from '../model/pattern.js'
import type { TensorLike } from '../tensor/resolve.js'
import { quote } from './errors.js'
import { PREFIX } from './layer-names.js'
import type { PeftMethod } from './peft-method.js'
import { NAMES, storedTensor, type StoredTensor } from './safetensors-file.js'
import { sourceOf, type TensorSource } from './safetensors-write.js'

/** Tensors by the name of their module, then by their name in it, such as { classifier: { weight, bias } }. */
export type ModulesToSave = Named<Named<TensorLike>>

/** What {@link AdapterModel.modulesToSave} gives. */
export type SavedModules = ReadonlyMap<string, ReadonlyMap<string, StoredTensor>>

/**
 * Returns the tensors of a file, with the given modules in place of their old tensors, and the names of the modules.
 *
 * @param layers names of the adapted layers
 */
export function withModules(
  { marker }: Pick<PeftMethod, 'marker'>,
  layers: readonly string[],
  others: ReadonlyMap<string, TensorSource> | undefined,
  modulesToSave: ModulesToSave | undefined,
): { tensors: Map<string, TensorSource>; modules: string[] } {
  const tensors = new Map(others)
  const modules: string[] = []
  if (modulesToSave === undefined) return { tensors, modules }
  const given = new Set<string>()
  for (const [module, named] of entriesOf('modulesToSave', modulesToSave)) {
    if (module === '' || module.includes(marker)) {
      fail(
        'ERR_LILY_ARGUMENT',
        'modulesToSave',
        `expected the name of a module without '${marker}', such as 'classifier', got ${quote(module)}`,
      )
    }
    const adapted = layers.find((layer) => isWithin(layer, module))
    if (adapted !== undefined) {
      fail(
        'ERR_LILY_ARGUMENT',
        'modulesToSave',
        `expected modules without adapted layers, got ${quote(module)} beside the adapted ${quote(adapted)}: PEFT saves ` +
          'each module whose name ends so, and has no adapters in it; leave it out, or the layer',
      )
    }
    modules.push(module)
    const prefix = `${PREFIX}${module}.`
    for (const [key, { dtype }] of others ?? []) {
      // The caller cannot give tensors of other types, such as the counter of a BatchNorm, without which PEFT fails.
      if (key.startsWith(prefix) && !given.has(key) && Object.hasOwn(NAMES, dtype)) tensors.delete(key)
    }
    for (const [name, value] of entriesOf(`modulesToSave[${quote(module)}]`, named)) {
      if (name === '' || name.includes(marker)) {
        fail(
          'ERR_LILY_ARGUMENT',
          'modulesToSave',
          `expected the name of a tensor without '${marker}', such as 'weight', got ${quote(name)}`,
        )
      }
      const key = prefix + name
      if (given.has(key))
        fail('ERR_LILY_ARGUMENT', 'modulesToSave', `expected each tensor once, got ${quote(key)} twice`)
      given.add(key)
      tensors.set(key, sourceOf(value, `modulesToSave.${module}.${name}`))
    }
  }
  return { tensors, modules }
}

/** The tensors of the modules that the field modules_to_save of a configuration lists, as far as they hold numbers. */
export function modulesOf(others: ReadonlyMap<string, TensorSource>, field: unknown): SavedModules {
  const isListed = listedBy(field)
  const modules = new Map<string, Map<string, StoredTensor>>()
  for (const [key, source] of others) {
    const found = splitKey(key, isListed)
    const stored = found === null ? null : toStored(source)
    if (found === null || stored === null) continue
    const tensors = modules.get(found.module) ?? new Map<string, StoredTensor>()
    modules.set(found.module, tensors.set(found.name, stored))
  }
  return modules
}

/** Whether a layer is, or is in, a module whose name ends with this text, which PEFT then saves: see {@link listedBy}. */
function isWithin(layer: string, module: string): boolean {
  return `${layer}.`.includes(`${module}.`)
}

/**
 * A predicate: whether a module is listed. PEFT saves every module whose name ends with a listed text, which need not begin at a dot: with
 * 'classifier' also the pre_classifier of DistilBERT.
 */
export function listedBy(field: unknown): (module: string) => boolean {
  const reversed = (text: string) => Array.from(text).reverse().join('')
  const isPrefixed = prefixedBy(namesOf(field).map(reversed))
  return (module) => isPrefixed(reversed(module))
}

/**
 * A predicate: whether a layer is, or is in, a listed module, by whole components of names. PEFT adapts no such layer.
 *
 * @throws LilyError ERR_LILY_ARGUMENT by the predicate if the names of the layers take too long
 */
export function withinListed(field: unknown): (layer: string) => boolean {
  const work = new PatternWork('modules_to_save')
  const isPrefixed = prefixedBy(namesOf(field).map((name) => `${name}.`))
  return (layer) => {
    const path = `${layer}.`
    for (let start = 0; start < path.length; start = path.indexOf('.', start) + 1) {
      work.add((path.length - start) / 8, layer)
      if (isPrefixed(path.slice(start))) return true
    }
    return false
  }
}

function namesOf(field: unknown): string[] {
  return Array.isArray(field) ? field.filter((name) => typeof name === 'string') : []
}

/** A predicate: whether a text begins with one of these, in a time by the logarithm of their number. */
function prefixedBy(prefixes: string[]): (text: string) => boolean {
  // Without those that begin with another one, only the last that does not come after the text can begin it.
  const sorted: string[] = []
  for (const prefix of prefixes.sort()) if (!prefix.startsWith(sorted.at(-1) ?? `${prefix}.`)) sorted.push(prefix)
  return (text) => {
    let [low, high] = [0, sorted.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (sorted[middle] <= text) low = middle + 1
      else high = middle
    }
    return low > 0 && text.startsWith(sorted[low - 1])
  }
}

function splitKey(key: string, isListed: (module: string) => boolean): { module: string; name: string } | null {
  if (!key.startsWith(PREFIX)) return null
  const path = key.slice(PREFIX.length)
  for (let dot = path.indexOf('.'); dot !== -1; dot = path.indexOf('.', dot + 1)) {
    const module = path.slice(0, dot)
    if (isListed(module)) return { module, name: path.slice(dot + 1) }
  }
  return null
}

function toStored({ dtype, shape, bytes }: TensorSource): StoredTensor | null {
  if (!Object.hasOwn(NAMES, dtype)) return null
  const content = bytes()
  if (content instanceof Promise) return null
  const type = NAMES[dtype]
  const copy = content.slice().buffer
  const data = viewOf(type, copy, 0, copy.byteLength / (type === 'float32' ? 4 : 2)) as StoredTensor['data']
  return storedTensor(type, shape, data)
}
