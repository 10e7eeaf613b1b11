/** Comparison of frozen linear layers with the reference. */
import { expect } from 'vitest'
import { linear, Matrix } from './reference.js'
import { expectClose, expectCloseAsPlain } from './compare.js'
import type { Types } from './dtypes.js'
import { type LinearHow, type LinearJob, type LinearResult, type LinearSpec, makeLinear } from './linear.js'

interface Reference {
  exact: ReturnType<typeof linear>
  /** With the roundings of the plain computation, which few problems are compared with. */
  plain?: ReturnType<typeof linear>
}

/** What the reference computed of a problem: it runs in several ways, and on several instruction sets. */
const references = new WeakMap<LinearSpec, Reference>()

function referenceOf(spec: LinearSpec, exact: boolean): ReturnType<typeof linear> {
  const reference = references.get(spec) ?? { exact: linear(makeLinear(spec)) }
  references.set(spec, reference)
  return exact ? reference.exact : (reference.plain ??= linear(makeLinear(spec), false))
}

/** Compares the results with the reference, and checks the memory around the operands. */
export function expectMatches({ spec, how }: LinearJob, { y, dx, old, damaged }: LinearResult): void {
  expect(damaged, 'operands written to where they must not be').toEqual([])
  const { tokens, activations = 'float32' } = spec
  const resultOf = (name: 'y' | 'dx', exact: boolean): Matrix => {
    const matrix = referenceOf(spec, exact)[name]
    const before = how.outputs === 'add' ? old[name] : undefined
    const sum = before === undefined ? matrix : matrix.plus(Matrix.exact(tokens, matrix.cols, before))
    return sum.rounded(activations, exact)
  }
  for (const [name, values] of Object.entries({ y, dx })) {
    const expected = resultOf(name as 'y' | 'dx', true)
    expectClose(name, values, expected)
    if (activations === 'float32' || values.length < 1000) continue
    expectCloseAsPlain(name, values, expected.value, resultOf(name as 'y' | 'dx', false).value)
  }
}

/** Edges of vectors, of blocks of rows, of panels and of chunks. */
const SIZES = [
  { tokens: 1, dIn: 1, dOut: 1 },
  { tokens: 7, dIn: 5, dOut: 3 },
  { tokens: 65, dIn: 113, dOut: 136 },
  { tokens: 6, dIn: 256, dOut: 64 },
  { tokens: 33, dIn: 257, dOut: 65 },
  { tokens: 13, dIn: 530, dOut: 1030 },
  { tokens: 403, dIn: 64, dOut: 48 },
] as const

const HOWS: readonly LinearHow[] = [
  { outputs: 'add' },
  { outputs: 'overwrite', packed: true },
  { outputs: 'add', packed: true },
  { outputs: 'new' },
]

/** Every size with every type; the ways to call by turns. */
export const jobsOf = (types: readonly Types[], sizes: readonly Omit<LinearSpec, 'seed'>[] = SIZES): LinearJob[] =>
  types.flatMap((type, i) =>
    sizes.map((size, j) => ({
      spec: { ...size, ...type, bias: (i + j) % 3 !== 0, seed: 10 * i + j },
      how: HOWS[(i + j) % HOWS.length],
    })),
  )
