/** The methods that a case is measured with, each as two functions. */
import { lilyBackward, lilyForward, loraBackward, loraForward, type Tensor } from '../lib/index.js'
import type { Case } from './cases.js'
import { composedLily } from './composed/lily.js'
import { composedLora } from './composed/lora.js'
import { dtypes } from './dtypes.js'
import { makeActivations, makeLilyParameters, makeLoraParameters, type Activations, type Place } from './operands.js'
import type { LoraParameters } from './operands.js'
import type { Method, Pass } from './report.js'
import { sequenceOffsets } from './sequences.js'

export type Calls = Readonly<Record<Pass, () => void>>

/** What calls of one method work on. */
type Maker = (activations: Activations) => Calls

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

/** A maker of a method's calls, with parameters of its own. */
function makerOf(method: Method, each: Case, equalRank: number, place: Place): Maker {
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
    case 'lora-composed':
      return (activations) => named(composedLora(activations, lora(shape.rank), types))
    case 'lily-composed': {
      const parameters = makeLilyParameters(shape, types.parameters, place)
      const weights = fixedWeights(shape.experts)
      return (activations) => named(composedLily({ activations, parameters, types, routing, weights }))
    }
  }
}

const named = ({ forward, both }: { forward: () => void; both: () => void }): Calls => ({
  forward,
  'forward+backward': both,
})

/** The composed steps work in host memory, and their products are no wider than a rank may be. */
export function methodsOf(all: readonly Method[], { shape, routing }: Case, backend: 'cpu' | 'cuda'): Method[] {
  return all.filter((method) => {
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
  place: (tensor: Tensor) => Tensor,
): Calls[] {
  const fresh = (): Activations => makeActivations(each.shape, dtypes[each.dtype], place)
  const shared = fresh()
  return all.map((method) => {
    const sets = setsOf(method)
    if (sets <= 1) return makerOf(method, each, equalRank, place)(shared)
    return inTurn(Array.from({ length: sets }, () => makerOf(method, each, equalRank, place)(fresh())))
  })
}

function inTurn(sets: readonly Calls[]): Calls {
  let turn = 0
  const next = (pass: Pass) => (): void => {
    sets[turn++ % sets.length][pass]()
  }
  return { forward: next('forward'), 'forward+backward': next('forward+backward') }
}
