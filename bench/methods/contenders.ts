/** The contenders of a case: each method as one function per pass. */
import { type Graph, packLinear } from '../../lib/index.js'
import type { BenchBackend, Case } from '../workload/cases.js'
import { dtypes } from '../workload/dtypes.js'
import {
  type Activations,
  type LilyParameters,
  type LoraParameters,
  makeActivations,
  makeLilyParameters,
  makeLoraParameters,
  makeWeight,
  type Place,
} from '../workload/operands.js'
import { composedLily } from './composed/lily.js'
import { composedLora } from './composed/lora.js'
import { type ComposedAdapter, composedAdapter, type TensorFlow, tensorFlowCalls } from './composed/tensorflow.js'
import { type Bind, fixedWeights, fusedLily, fusedLora, replayed } from './fused.js'
import { frozenLayer, lilyLayer, loraLayer } from './layer.js'
import { type Calls, hasLayer, type Method, type Pass } from './methods.js'

/** Receives the tensors and graphs of a case; the caller disposes of them after the case. */
export interface Resources {
  readonly place: Place
  readonly keep: <T extends Graph | ComposedAdapter>(resource: T) => T
  /** On WebGPU the composed methods are operations of TensorFlow.js. */
  readonly tensorFlow: TensorFlow | null
}

/** Creates the parameters of a method. */
function bindMethod(method: Method, benchCase: Case, equalRank: number, resources: Resources): Bind {
  const { place, keep, tensorFlow } = resources
  const { shape, routing } = benchCase
  const types = dtypes[benchCase.dtype]
  const lily = (): LilyParameters => makeLilyParameters(shape, types.parameters, place, routing)
  const lora = (rank: number): LoraParameters => makeLoraParameters(shape.d, rank, types.parameters, place)
  const weight = () => packLinear(makeWeight(shape, types, place))
  if (tensorFlow !== null && method.endsWith('-composed')) {
    const onHost: Place = (tensor) => tensor
    const parameters =
      method === 'lily-composed'
        ? makeLilyParameters(shape, 'float32', onHost)
        : makeLoraParameters(shape.d, shape.rank, 'float32', onHost)
    return () => tensorFlowCalls(tensorFlow, keep(composedAdapter(tensorFlow.tf, shape, parameters)))
  }
  switch (method) {
    case 'lily':
      return fusedLily(benchCase, lily())
    case 'lora':
      return fusedLora(lora(shape.rank))
    case 'lora-equal-parameters':
      return fusedLora(lora(equalRank))
    case 'lily-graph':
      return replayed(fusedLily(benchCase, lily()), keep)
    case 'lora-graph':
      return replayed(fusedLora(lora(shape.rank)), keep)
    case 'layer':
      return frozenLayer(weight())
    case 'lily-layer':
      return lilyLayer(benchCase, lily(), weight())
    case 'lora-layer':
      return loraLayer(lora(shape.rank), weight())
    case 'lora-composed':
      return (activations) => composedLora(activations, lora(shape.rank), types)
    case 'lily-composed': {
      const parameters = lily()
      const weights = fixedWeights(shape.experts)
      return (activations) => composedLily({ activations, parameters, types, routing, weights })
    }
  }
}

/**
 * The methods of `all` that a case supports, with the frozen layer if `withLayer`. Graphs require CUDA. Composed methods
 * run in host memory, and the inner dimension of their products is limited to the maximum rank of a call, 4096; on WebGPU
 * TensorFlow.js computes them, in float32 with batch routing.
 */
export function methodsOf(
  all: readonly Method[],
  { shape, dtype, routing }: Case,
  backend: BenchBackend,
  withLayer: boolean,
  hasTensorFlow = false,
): Method[] {
  return all.filter((method) => {
    if (hasLayer(method)) return withLayer && backend === 'cpu'
    if (method.endsWith('-graph')) return backend === 'cuda'
    if (!method.endsWith('-composed')) return true
    if (backend === 'webgpu') return hasTensorFlow && dtype === 'float32' && routing === 'batch'
    return (
      backend === 'cpu' && (routing !== 'token' || method === 'lora-composed' || shape.experts * shape.rank <= 4096)
    )
  })
}

/**
 * The calls of each method. With one operand set (warm caches) every call uses the same operands, and all methods share
 * the activations. With several sets (cold caches) the calls of a method rotate through them.
 */
export function makeContenders(
  selected: readonly Method[],
  benchCase: Case,
  equalRank: number,
  setCount: (method: Method) => number,
  resources: Resources,
): Calls[] {
  const newActivations = (): Activations => makeActivations(benchCase.shape, dtypes[benchCase.dtype], resources.place)
  const shared = newActivations()
  return selected.map((method) => {
    const sets = setCount(method)
    if (sets <= 1) return bindMethod(method, benchCase, equalRank, resources)(shared)
    return rotate(
      Array.from({ length: sets }, () => bindMethod(method, benchCase, equalRank, resources)(newActivations())),
    )
  })
}

function rotate(sets: readonly Calls[]): Calls {
  let turn = 0
  const next = (pass: Pass) => (): void => {
    sets[turn++ % sets.length][pass]()
  }
  return { forward: next('forward'), 'forward+backward': next('forward+backward') }
}
