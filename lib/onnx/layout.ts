/** The matrices that an ONNX model with an adapter has, and their sizes. */
import type { Activation, Pool } from '../operations/problem.js'
import type { OnnxInput } from './injected.js'

/** How a graph mixes the experts of layers with routers. 'constant': no layer has a router. */
export interface Mixture {
  readonly routing: 'constant' | 'batch' | 'sequence' | 'token'
  readonly pool: Pool
  readonly activation: Activation
}

export type Kind = 'a' | 'router' | 'b'

export interface LayerSizes {
  /** d_in */
  readonly inFeatures: number
  /** d_out */
  readonly outFeatures: number
}

/** An adapted layer of a graph: the names of its matrices, which are inputs or, baked, initializers. */
export interface InjectedLayer extends LayerSizes, Readonly<Record<'a' | 'b', string>> {
  /** null: the weights of the experts are constant. */
  readonly router: string | null
}

/** What {@link inject} has added to a graph. */
export interface Injection extends Mixture {
  readonly isBaked: boolean
  /** By name. */
  readonly layers: ReadonlyMap<string, InjectedLayer>
}

/** A size of a matrix of a graph: a number, times r or E or both. */
interface Size {
  readonly factor: number
  readonly of: readonly ('E' | 'r')[]
}

/** A matrix of a graph. */
export interface Slot {
  readonly kind: Kind
  /** The layers that use it. */
  readonly layers: string[]
  readonly sizes: readonly [Size, Size]
  /** The layer whose rank it has; null if all have one rank. */
  readonly rankOf: string | null
}

/**
 * The matrices of a graph by name, in the order of the layers.
 *
 * @param conflict is called for a name with two meanings
 */
export function slotsOf({ routing, layers }: Injection, conflict: (name: string) => never): Map<string, Slot> {
  const slots = new Map<string, Slot>()
  for (const [layer, { inFeatures, outFeatures, a, router, b }] of layers) {
    const rankOf = router === null ? layer : null
    const add = (kind: Kind, name: string, sizes: Slot['sizes']) => {
      const slot: Slot = { kind, layers: [layer], sizes, rankOf }
      const known = slots.get(name)
      if (known === undefined) slots.set(name, slot)
      else if (known.kind === kind && String(symbolsOf(known)) === String(symbolsOf(slot))) known.layers.push(layer)
      else conflict(name)
    }
    add('a', a, [size(inFeatures), size(1, 'r')])
    if (router === null) add('b', b, [size(1, 'r'), size(outFeatures)])
    else {
      add('router', router, [size(1, 'r'), size(1, 'E')])
      add('b', b, routing === 'token' ? [size(1, 'E', 'r'), size(outFeatures)] : [size(1, 'E'), size(outFeatures, 'r')])
    }
  }
  return slots
}

const size = (factor: number, ...of: Size['of']): Size => ({ factor, of })

/** The shape of a matrix. */
export function dimsOf({ sizes }: Slot, rank: number, experts: number): [number, number] {
  const numberOf = ({ factor, of }: Size) =>
    of.reduce((product, name) => product * { r: rank, E: experts }[name], factor)
  return [numberOf(sizes[0]), numberOf(sizes[1])]
}

/** The shape of an input. ONNX Runtime takes sizes of one name for equal ones, so that the names are the package's own. */
export function symbolsOf({ sizes, rankOf }: Slot): OnnxInput['dims'] {
  const suffix = rankOf === null ? '' : ` of ${rankOf}`
  const symbol = ({ factor, of }: Size) =>
    of.length === 0 ? factor : `lily/${[...of, ...(factor === 1 ? [] : [factor])].join('*')}${suffix}`
  return [symbol(sizes[0]), symbol(sizes[1])]
}
