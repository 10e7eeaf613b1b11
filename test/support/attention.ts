/** Attention: makes a problem, runs it through the public API. Child processes use this file, too. */
import { attentionBackward, attentionForward, type BackendInfo, backends } from '../../lib/index.js'
import { answer } from './fork.js'
import { type Layout, Operand } from './operands.js'
import { gaussian, integer, randomFrom } from './random.js'

export interface AttentionSpec {
  batch: number
  tokens: number
  keys: number
  heads: number
  dHead: number
  causal?: boolean
  /** Default: that of the call. */
  scale?: number
  /** Drops keys at random, and all of the first item. */
  masked?: boolean
  seed: number
}

export interface Attention extends AttentionSpec {
  q: Float32Array
  k: Float32Array
  v: Float32Array
  dy: Float32Array
  mask?: Uint8Array
}

/** Variations of a call that must not change its results. */
export interface AttentionHow {
  layout?: Layout
  outputs?: 'new' | 'add' | 'overwrite'
}

export interface AttentionJob {
  spec: AttentionSpec
  how: AttentionHow
}

export type Result = Record<'y' | 'dq' | 'dk' | 'dv', Float32Array>

export interface AttentionResult extends Result {
  /** Inputs that were written to, and operands whose padding was. */
  damaged: string[]
}

export interface AttentionReport {
  backend: BackendInfo
  results: AttentionResult[]
}

export function makeAttention(spec: AttentionSpec): Attention {
  const { batch, tokens, keys, heads, dHead } = spec
  const random = randomFrom(spec.seed)
  const rows = (count: number) => gaussian(random, batch * count * heads * dHead)
  const made = { ...spec, q: rows(tokens), k: rows(keys), v: rows(keys), dy: rows(tokens) }
  if (spec.masked !== true) return made
  const mask = Uint8Array.from({ length: batch * keys }, (_, i) => (i < keys ? 0 : integer(random, 0, 2)))
  return { ...made, mask }
}

/** What given gradients hold before the call: multiples of 1/8. */
export const oldValue = (i: number): number => ((i % 17) - 8) / 8

export function runAttention(problem: Attention, { layout, outputs = 'new' }: AttentionHow = {}): AttentionResult {
  const { batch, tokens, keys, heads, dHead, causal, scale } = problem
  const place = (count: number, values: ArrayLike<number>) =>
    new Operand('float32', batch * count, heads * dHead, values, layout ?? { gap: 0, margin: 0 })
  const input = { q: place(tokens, problem.q), k: place(keys, problem.k), v: place(keys, problem.v) }
  const dy = place(tokens, problem.dy)
  const given = (count: number, isAdded: boolean) => {
    if (outputs === 'new') return undefined
    // Overwritten outputs must not be read; NaN would propagate.
    const values = Float32Array.from({ length: batch * count * heads * dHead }, (_, i) => (isAdded ? oldValue(i) : NaN))
    return place(count, values)
  }
  const output = {
    y: given(tokens, false),
    dq: given(tokens, outputs === 'add'),
    dk: given(keys, outputs === 'add'),
    dv: given(keys, outputs === 'add'),
  }
  const [ofQueries, ofKeys] = [
    [batch, tokens],
    [batch, keys],
  ]
  const mask = problem.mask && { data: problem.mask, shape: ofKeys }
  const [q, k, v] = [input.q.tensor(...ofQueries), input.k.tensor(...ofKeys), input.v.tensor(...ofKeys)]
  const { y, saved } = attentionForward({ q, k, v, mask, y: output.y?.tensor(...ofQueries) }, { heads, causal, scale })
  const gradients = attentionBackward(
    {
      dy: dy.tensor(...ofQueries),
      dq: output.dq?.tensor(...ofQueries),
      dk: output.dk?.tensor(...ofKeys),
      dv: output.dv?.tensor(...ofKeys),
    },
    saved,
    { accumulate: outputs !== 'overwrite' },
  )
  const changed = Object.entries({ ...input, dy }).filter(([, operand]) => !operand.isUnchanged())
  const unpadded = Object.entries(output).filter(([, operand]) => operand?.isPaddingUnchanged() === false)
  const values = { y, ...gradients }
  return {
    y: output.y?.values() ?? (values.y.data as Float32Array),
    dq: output.dq?.values() ?? (values.dq.data as Float32Array),
    dk: output.dk?.values() ?? (values.dk.data as Float32Array),
    dv: output.dv?.values() ?? (values.dv.data as Float32Array),
    damaged: [...changed, ...unpadded].map(([name]) => name),
  }
}

answer((jobs: AttentionJob[]): Promise<AttentionReport> => {
  const [backend] = backends()
  const results = backend.available ? jobs.map(({ spec, how }) => runAttention(makeAttention(spec), how)) : []
  return Promise.resolve({ backend, results })
})
