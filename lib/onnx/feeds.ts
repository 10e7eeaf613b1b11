/** The values of the inputs of an ONNX model with an adapter. */
import { fail } from '../base/errors.js'
import { quote } from '../checkpoint/errors.js'
import { firstNotFinite } from '../tensor/numbers.js'
import { dimsOf, type Injection, type Slot } from './layout.js'
import type { Adapter, LayerMatrices, Matrix, Sizes } from './matrices.js'
import { allocating } from './memory.js'

/** What an input receives. */
export interface Fed {
  readonly name: string
  readonly dims: [number, number]
  /** Finite numbers. */
  readonly values: () => Promise<Float32Array>
}

/** A base model has the smallest matrices: ONNX Runtime computes no product with an empty one in WebGPU. */
const SMALLEST: Sizes = { rank: 1, experts: 1 }

/** Layers that a message names. */
const MAX_LISTED = 3

/**
 * The values of the matrices of a graph, by the slots' names. The zeros of layers that the adapter does not have are the
 * reason why a graph can run adapters of other layers.
 *
 * @param adapter null: the base model
 * @throws LilyError ERR_LILY_ARGUMENT for an adapter that the graph does not compute
 */
export function fedBy(injection: Injection, slots: ReadonlyMap<string, Slot>, adapter: Adapter | null): Fed[] {
  const matrices = adapter === null ? new Map<string, Found>() : find(injection, slots, adapter)
  return Array.from(slots, ([name, slot]) => {
    const { matrix, sizes } = matrices.get(name) ?? { matrix: null, sizes: adapter?.sizes ?? SMALLEST }
    const dims = dimsOf(slot, sizes.rank, sizes.experts)
    return { name, dims, values: () => valuesOf(name, matrix, dims[0] * dims[1]) }
  })
}

/** Zeros if there is no matrix. */
async function valuesOf(name: string, matrix: Matrix | null, length: number): Promise<Float32Array> {
  const values = await allocating(name, () => matrix?.values() ?? new Float32Array(length))
  if (firstNotFinite('float32', values) === -1) return values
  return fail(
    'ERR_LILY_ARGUMENT',
    'model',
    `expected finite numbers in ${quote(name)}, got an infinity or NaN; load an earlier checkpoint: the training has diverged`,
  )
}

interface Found {
  readonly matrix: Matrix
  readonly sizes: Sizes
}

function find(injection: Injection, slots: ReadonlyMap<string, Slot>, adapter: Adapter): Map<string, Found> {
  for (const [name, layer] of adapter.layers) checkLayer(injection, name, layer)
  checkMixture(injection, adapter)
  const found = new Map<string, Found>()
  for (const [name, { kind, layers }] of slots) {
    const users = layers.flatMap((layer) => adapter.layers.get(layer) ?? [])
    const matrices = new Set(users.map((layer) => layer[kind] as Matrix))
    if (matrices.size > 1) {
      const option = kind === 'a' ? 'strideA' : 'targetModules'
      refuse(`one ${quote(name)} for the layers ${list(layers)} (${option})`, `${matrices.size} of them`)
    }
    for (const matrix of matrices) found.set(name, { matrix, sizes: users[0].sizes })
  }
  for (const [name, { a, b }] of injection.layers) {
    // With a or b zero it adds zeros.
    if (adapter.layers.has(name) || !found.has(a) || !found.has(b)) continue
    refuse(`an adapter of layer ${quote(name)}, which shares ${quote(a)} and ${quote(b)} with others`, 'none')
  }
  return found
}

function checkLayer({ layers }: Injection, name: string, { inFeatures, outFeatures, router }: LayerMatrices): void {
  const layer = layers.get(name)
  if (layer === undefined) refuse(`adapters of the layers ${list([...layers.keys()])}`, `one of ${quote(name)}`)
  if (layer.inFeatures !== inFeatures || layer.outFeatures !== outFeatures) {
    const sizes = `[${layer.inFeatures}, ${layer.outFeatures}]`
    refuse(`sizes ${sizes} for layer ${quote(name)}`, `[${inFeatures}, ${outFeatures}]`)
  }
  if ((layer.router === null) === (router === null)) return
  const [constant, routed] = ['constant weights of the experts, as LoRA has', 'a router']
  const [expected, got] = router === null ? [routed, constant] : [constant, routed]
  refuse(`${expected}, for layer ${quote(name)}`, got)
}

function checkMixture(injection: Injection, adapter: Adapter): void {
  const isRouted = injection.routing !== 'constant' && adapter.routing !== 'constant'
  const names = ['activation', ...(isRouted ? ['routing'] : []), ...(isRouted && isPooled(injection) ? ['pool'] : [])]
  for (const name of names as ('activation' | 'routing' | 'pool')[]) {
    if (adapter[name] !== injection[name]) refuse(`${name} '${injection[name]}'`, `'${adapter[name]}'`)
  }
}

const isPooled = ({ routing }: Injection) => routing === 'batch' || routing === 'sequence'

function list(layers: readonly string[]): string {
  const more = layers.length - MAX_LISTED
  return layers.slice(0, MAX_LISTED).map(quote).join(', ') + (more > 0 ? ` and ${more} more` : '')
}

function refuse(expected: string, got: string): never {
  fail(
    'ERR_LILY_ARGUMENT',
    'model',
    `expected ${expected}, as the injected model has, got ${got}; inject this model into the base model`,
  )
}
