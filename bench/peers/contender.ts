/** The contenders that are sampled in turn: the calls of this package, and the methods of the peers. */
import { setTimeout } from 'node:timers/promises'
import { hostClock, type Sampler } from '../harness/sampling.js'
import { fusedLily, fusedLora } from '../methods/fused.js'
import { frozenLayer, lilyLayer, loraLayer } from '../methods/layer.js'
import type { Calls, Pass } from '../methods/methods.js'
import { dtypes, decode, type Float } from '../workload/dtypes.js'
import { makeActivations, makeLilyParameters, makeLoraParameters, makeWeight } from '../workload/operands.js'
import type { Case } from '../workload/cases.js'
import { packLinear, type Tensor } from '../../lib/index.js'
import type { PeerProcess } from './peer-process.js'
import { type Adapter, evenlySpaced, type Outputs, type PeerMethod } from './protocol.js'

export interface Contender {
  /** The name of a column of the tables. */
  readonly name: string
  readonly adapter: Adapter
  /** Creates the operands. */
  open(benchCase: Case): Promise<void>
  /** Evenly spaced elements of the outputs of one call. */
  outputs(): Promise<Outputs>
  /** Whether it measures a pass of a case. */
  measures(benchCase: Case, pass: Pass): boolean
  sampler(pass: Pass): Sampler
  /** Releases the operands. */
  close(): Promise<void>
}

/**
 * The pause before a sample, in milliseconds. The threads of OpenMP spin for several milliseconds after the last call of
 * their process, on the processors that the next contender requires.
 */
export const PAUSE = 25

/**
 * Seconds of untimed calls before a sample. The contenders before it have replaced the contents of the caches, and a
 * process that has slept gets its processors back only after milliseconds.
 */
export const WARMUP = 0.02

export const OURS = 'lily-kernels'

/** The calls of this package with new operands, and the outputs by name. */
function bind(adapter: Adapter, { shape, dtype, routing }: Case): { calls: Calls; outputs: Record<string, Tensor> } {
  const types = dtypes[dtype]
  const place = (tensor: Tensor): Tensor => tensor
  const activations = makeActivations(shape, types, place)
  const { y, dx } = activations
  const weight = () => packLinear(makeWeight(shape, types, place))
  if (adapter === 'layer') return { calls: frozenLayer(weight())(activations), outputs: { y, dx } }
  if (adapter === 'lora' || adapter === 'lora-layer') {
    const parameters = makeLoraParameters(shape.d, shape.rank, types.parameters, place)
    const { da, db } = parameters
    const bound = adapter === 'lora' ? fusedLora(parameters) : loraLayer(parameters, weight())
    return { calls: bound(activations), outputs: { y, dx, da, db } }
  }
  const benchCase = { shape, dtype, routing }
  const parameters = makeLilyParameters(shape, types.parameters, place)
  const { da, dRouter, db } = parameters
  const bound = adapter === 'lily' ? fusedLily(benchCase, parameters) : lilyLayer(benchCase, parameters, weight())
  return { calls: bound(activations), outputs: { y, dx, da, dRouter, db } }
}

/** The fused calls of this package, on the cpu backend. */
export function ourContender(adapter: Adapter): Contender {
  let current: { benchCase: Case; calls: Calls } | null = null
  const opened = () => {
    if (current === null) throw new Error('the contender is not open')
    return current
  }
  return {
    name: OURS,
    adapter,
    open: (benchCase) => {
      current = { benchCase, calls: bind(adapter, benchCase).calls }
      return Promise.resolve()
    },
    outputs: () => {
      // Outputs are accumulated: only the first call with new operands leaves the result of one call.
      const { calls, outputs } = bind(adapter, opened().benchCase)
      calls['forward+backward']()
      const values = Object.entries(outputs).map(([name, { data, dtype }]) => {
        return [name, evenlySpaced(decode(data, dtype as Float))] as const
      })
      return Promise.resolve(Object.fromEntries(values))
    },
    measures: () => true,
    sampler: (pass) => {
      const run = opened().calls[pass]
      return async (calls) => {
        await setTimeout(PAUSE)
        const end = performance.now() + WARMUP * 1000
        do run()
        while (performance.now() < end)
        return hostClock(run, calls)
      }
    },
    close: () => {
      current = null
      return Promise.resolve()
    },
  }
}

/** A method of a peer. Its process may serve several contenders. */
export function peerContender(name: string, peer: PeerProcess, method: PeerMethod): Contender {
  return {
    name,
    adapter: method.adapter,
    open: async ({ shape: { tokens, d, rank, experts }, dtype }) => {
      await peer.request({ request: 'open', method: method.name, shape: [tokens, d, rank, experts], dtype })
    },
    outputs: async () => {
      const { outputs } = await peer.request({ request: 'outputs', method: method.name })
      if (outputs === undefined) throw new Error('the peer returned no outputs')
      return outputs
    },
    measures: ({ dtype }, pass) => method.dtypes.includes(dtype) && method.passes.includes(pass),
    sampler: (pass) => async (calls) => {
      await setTimeout(PAUSE)
      const request = { request: 'sample', method: method.name, pass, warmup: WARMUP, calls } as const
      const { seconds = 0 } = await peer.request(request)
      if (!(seconds > 0)) throw new Error(`the peer returned ${seconds} seconds`)
      return seconds
    },
    close: async () => {
      await peer.request({ request: 'close' })
    },
  }
}
