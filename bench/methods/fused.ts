/** The fused methods, and their replays as graphs. */
import {
  captureGraph,
  type Graph,
  lilyBackward,
  lilyForward,
  loraBackward,
  loraForward,
  type LoraForwardOptions,
} from '../../lib/index.js'
import type { Case } from '../workload/cases.js'
import type { Activations, LilyParameters, LoraParameters } from '../workload/operands.js'
import { sequenceOffsets } from '../workload/sequences.js'
import type { Calls, Pass } from './methods.js'

/** Binds the calls of a method to activations. */
export type Bind = (activations: Activations) => Calls

/** Weights for fixed routing, different for every expert. */
export const fixedWeights = (experts: number): Float32Array =>
  Float32Array.from({ length: experts }, (_, e) => (2 * (e + 1)) / (experts * (experts + 1)))

/** The options of Lily in a case, and whether the routing has a router. */
export const lilyOptions = ({ shape, routing }: Case) => ({
  isRouted: routing !== 'uniform' && routing !== 'fixed',
  routing,
  ...(routing === 'sequence' ? { sequenceOffsets: sequenceOffsets(shape.tokens) } : {}),
  ...(routing === 'fixed' ? { weights: { data: fixedWeights(shape.experts), shape: [shape.experts] } } : {}),
})

export type Dropout = Pick<LoraForwardOptions, 'dropout'>

export function fusedLily(benchCase: Case, parameters: LilyParameters, dropout: Dropout = {}): Bind {
  const { router, dRouter, da, db, ...rest } = parameters
  const { isRouted, ...lily } = lilyOptions(benchCase)
  const options = { ...lily, ...dropout }
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

export const fusedLora =
  ({ a, b, da, db }: LoraParameters, dropout: Dropout = {}): Bind =>
  ({ x, y, dy, dx }) => ({
    forward: () => loraForward({ x, a, b, y }, dropout).saved.dispose(),
    'forward+backward': () => {
      const { saved } = loraForward({ x, a, b, y }, dropout)
      loraBackward({ dy, dx, da, db }, saved)
      saved.dispose()
    },
  })

/** Captures the calls of `bind` in graphs and replays them. The caller disposes of the graphs that `keep` receives. */
export const replayed =
  (bind: Bind, keep: (graph: Graph) => Graph): Bind =>
  (activations) => {
    const calls = bind(activations)
    const capture = (pass: Pass) => {
      const graph = keep(captureGraph(calls[pass]))
      return () => {
        graph.replay()
      }
    }
    return { forward: capture('forward'), 'forward+backward': capture('forward+backward') }
  }
