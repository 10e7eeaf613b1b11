/** Frozen linear layers: makes a problem, runs it through the public API. Child processes use this file, too. */
import { type BackendInfo, backends, PackedLinear } from '../../lib/index.js'
import type { Linear } from './reference.js'
import { linearBackward, linearBackwardAsync, linearForward, linearForwardAsync, packLinear } from './backend.js'
import { roundAll, type Types, unpack } from './dtypes.js'
import { answer } from './fork.js'
import { type Layout, Operand } from './operands.js'
import { gaussian, randomFrom } from './random.js'

export interface LinearSpec extends Types {
  tokens: number
  dIn: number
  dOut: number
  bias?: boolean
  seed: number
}

type Name = 'x' | 'weight' | 'bias' | 'dy' | 'y' | 'dx'

/** Variations of a call that must not change its results. */
export interface LinearHow {
  layout?: Partial<Record<Name, Layout>>
  outputs?: 'new' | 'add' | 'overwrite'
  packed?: boolean
  /** Weight and bias are passed in float32. They have the numbers of the type of the parameters. */
  widened?: boolean
  isAsync?: boolean
  /** Leading dimensions of x, y, dy and dx. */
  leading?: number[]
}

export interface LinearJob {
  spec: LinearSpec
  how: LinearHow
}

export interface LinearResult {
  y: Float32Array
  dx: Float32Array
  /** Contents of the given outputs before the call. */
  old: { y?: Float32Array; dx?: Float32Array }
  /** Inputs that were written to, and operands whose padding was. */
  damaged: string[]
}

export interface LinearReport {
  backend: BackendInfo
  results: LinearResult[]
}

export function makeLinear(spec: LinearSpec): Linear {
  const { tokens, dIn, dOut, activations = 'float32', parameters = activations } = spec
  const random = randomFrom(spec.seed)
  return {
    ...spec,
    x: roundAll(activations, gaussian(random, tokens * dIn)),
    weight: roundAll(parameters, gaussian(random, dOut * dIn, 1 / Math.sqrt(dIn))),
    bias: spec.bias === true ? roundAll(parameters, gaussian(random, dOut)) : undefined,
    dy: roundAll(activations, gaussian(random, tokens * dOut)),
  }
}

export async function runLinear(problem: Linear, how: LinearHow = {}): Promise<LinearResult> {
  const { tokens, dIn, dOut, activations = 'float32', parameters = activations, precision } = problem
  const { outputs = 'new', leading = [], isAsync = false } = how
  const inputs = new Map<string, Operand>()
  const given = new Map<string, Operand>()
  const old: LinearResult['old'] = {}
  const place = (name: Name, rows: number, columns: number, values: ArrayLike<number>) => {
    const ofWeight = how.widened === true ? 'float32' : parameters
    const dtype = name === 'weight' || name === 'bias' ? ofWeight : activations
    return new Operand(dtype, rows, columns, values, how.layout?.[name] ?? { gap: 0, margin: 0 })
  }
  const input = (name: Name, rows: number, columns: number, values: ArrayLike<number>) => {
    const operand = place(name, rows, columns, values)
    inputs.set(name, operand)
    return operand
  }
  const output = (name: 'y' | 'dx', columns: number) => {
    if (outputs === 'new') return undefined
    // Overwritten outputs must not be read; NaN would propagate.
    const values =
      outputs === 'add'
        ? roundAll(activations, gaussian(randomFrom(tokens + columns), tokens * columns))
        : new Float32Array(tokens * columns).fill(NaN)
    const operand = place(name, tokens, columns, values)
    given.set(name, operand)
    old[name] = values
    return operand.tensor(...leading)
  }

  const x = input('x', tokens, dIn, problem.x).tensor(...leading)
  const dy = input('dy', tokens, dOut, problem.dy).tensor(...leading)
  const plain = input('weight', dOut, dIn, problem.weight).tensor()
  const bias =
    problem.bias === undefined
      ? undefined
      : { ...input('bias', 1, dOut, problem.bias).tensor(), shape: [dOut], strides: [1] }
  const weight = how.packed === true ? packLinear(plain) : plain
  const options = { precision, accumulate: outputs !== 'overwrite' }
  const [forward, backward] = isAsync ? [linearForwardAsync, linearBackwardAsync] : [linearForward, linearBackward]
  const { y } = await forward({ x, weight, bias, y: output('y', dOut) }, options)
  const { dx } = await backward({ dy, weight, dx: output('dx', dIn) }, options)
  if (weight instanceof PackedLinear) weight.dispose()

  const values = (name: 'y' | 'dx', tensor: typeof y) => given.get(name)?.values() ?? unpack(tensor.dtype, tensor.data)
  const changed = [...inputs].filter(([, operand]) => !operand.isUnchanged())
  const unpadded = [...given].filter(([, operand]) => !operand.isPaddingUnchanged())
  return {
    y: values('y', y),
    dx: values('dx', dx),
    old,
    damaged: [...changed, ...unpadded].map(([name]) => name),
  }
}

answer(async (jobs: LinearJob[]): Promise<LinearReport> => {
  const [backend] = backends()
  const results: LinearResult[] = []
  if (backend.available) {
    for (const { spec, how } of jobs) results.push(await runLinear(makeLinear(spec), how))
  }
  return { backend, results }
})
