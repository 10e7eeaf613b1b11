/** The methods that a case is measured with, each as two functions. */
import { captureGraph, type Graph, lilyBackward, lilyForward, loraBackward, loraForward } from '../lib/index.js'
import type { Case } from './cases.js'
import { composedLily } from './composed/lily.js'
import { composedLora } from './composed/lora.js'
import { dtypes } from './dtypes.js'
import {
  type Activations,
  type LoraParameters,
  makeActivations,
  makeLilyParameters,
  makeLoraParameters,
  type Place,
} from './operands.js'
import type { Calls, Method, Pass } from './report.js'
import { sequenceOffsets } from './sequences.js'

/** What calls of one method work on. */
type Maker = (activations: Activations) => Calls

/** Takes what is made for a case, and lets go of it afterwards. */
export interface Keeper {
  readonly place: Place
  readonly keep: (graph: Graph) => Graph
}

/** Of fixed routing: no two experts weigh the same. */
const fixedWeights = (experts: number): Float32Array =>
  Float32Array.from({ length: experts }, (_, e) => (2 * (e + 1)) / (experts * (experts + 1)))

function fusedLily({ shape, dtype, routing }: Case, place: Place): Maker {
  const { router, dRouter, da, db, ...rest } = makeLilyParameters(shape, dtypes[dtype].parameters, place)
  const isRouted = routing !== 'uniform' && routing !== 'fixed'
  const options = {
    routing,
    ...(routing === 'sequence' ? { sequenceOffsets: sequenceOffsets(shape.tokens) } : {}),
    ...(routing === 'fixed' ? { weights: { data: fixedWeights(shape.experts), shape: [shape.experts] } } : {}),
  }
  return ({ x, y, dy, dx }) => {
    const operands = { x, y, ...rest, ...(isRouted ? { router } : {}) }
    const gradients = { dy, dx, da, db, ...(isRouted ? { dRouter } : {}) }
    return {
      forward: () => lilyForward(operands, options).saved.dispose(),
      'forward+backward': () => {
        const { saved } = lilyForward(operands, options)
        lilyBackward(gradients, saved)
        saved.dispose()
      },
    }
  }
}

const fusedLora =
  ({ a, b, da, db }: LoraParameters): Maker =>
  ({ x, y, dy, dx }) => ({
    forward: () => loraForward({ x, a, b, y }).saved.dispose(),
    'forward+backward': () => {
      const { saved } = loraForward({ x, a, b, y })
      loraBackward({ dy, dx, da, db }, saved)
      saved.dispose()
    },
  })

/** The same calls by replays of their graphs, which the caller disposes of. */
const replayed =
  (make: Maker, keep: (graph: Graph) => Graph): Maker =>
  (activations) => {
    const calls = make(activations)
    const record = (pass: Pass) => {
      const graph = keep(captureGraph(calls[pass]))
      return () => {
        graph.replay()
      }
    }
    return { forward: record('forward'), 'forward+backward': record('forward+backward') }
  }

/** A maker of a method's calls, with parameters of its own. */
function makerOf(method: Method, each: Case, equalRank: number, { place, keep }: Keeper): Maker {
  const { shape, routing } = each
  const types = dtypes[each.dtype]
  const lora = (rank: number): LoraParameters => makeLoraParameters(shape.d, rank, types.parameters, place)
  switch (method) {
    case 'lily':
      return fusedLily(each, place)
    case 'lora':
      return fusedLora(lora(shape.rank))
    case 'lora-equal-parameters':
      return fusedLora(lora(equalRank))
    case 'lily-graph':
      return replayed(fusedLily(each, place), keep)
    case 'lora-graph':
      return replayed(fusedLora(lora(shape.rank)), keep)
    case 'lora-composed':
      return (activations) => composedLora(activations, lora(shape.rank), types)
    case 'lily-composed': {
      const parameters = makeLilyParameters(shape, types.parameters, place)
      const weights = fixedWeights(shape.experts)
      return (activations) => composedLily({ activations, parameters, types, routing, weights })
    }
  }
}

/** Graphs are a device's. The composed steps work in host memory, and their products are no wider than a rank may be. */
export function methodsOf(all: readonly Method[], { shape, routing }: Case, backend: 'cpu' | 'cuda'): Method[] {
  return all.filter((method) => {
    if (method.endsWith('-graph')) return backend === 'cuda'
    if (!method.endsWith('-composed')) return true
    return (
      backend === 'cpu' && (routing !== 'token' || method === 'lora-composed' || shape.experts * shape.rank <= 4096)
    )
  })
}

/**
 * The calls of each method. Warm: the same operands in every call, activations shared by all methods. Cold: `sets` of
 * all operands of a method in turn, so many that the caches have lost a set when its turn comes again.
 */
export function makeContenders(
  all: readonly Method[],
  each: Case,
  equalRank: number,
  setsOf: (method: Method) => number,
  keeper: Keeper,
): Calls[] {
  const fresh = (): Activations => makeActivations(each.shape, dtypes[each.dtype], keeper.place)
  const shared = fresh()
  return all.map((method) => {
    const sets = setsOf(method)
    if (sets <= 1) return makerOf(method, each, equalRank, keeper)(shared)
    return inTurn(Array.from({ length: sets }, () => makerOf(method, each, equalRank, keeper)(fresh())))
  })
}

function inTurn(sets: readonly Calls[]): Calls {
  let turn = 0
  const next = (pass: Pass) => (): void => {
    sets[turn++ % sets.length][pass]()
  }
  return { forward: next('forward'), 'forward+backward': next('forward+backward') }
}
