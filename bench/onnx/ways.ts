/** The ways to run the layers with an adapter, and without one. */
import { type AdapterModel, packLinear, type Tensor } from '../../lib/index.js'
import { inject } from '../../lib/onnx/index.js'
import { LIMITS } from '../peers/agreement.js'
import { createSession, type Ort, type OrtSession, type OrtTensor } from '../peers/ort.js'
import { zeros } from '../workload/operands.js'
import {
  type AdapterName,
  blockModel,
  isMergeable,
  layers,
  makeAdapter,
  makeWeights,
  mergedWeights,
  type Sizes,
} from './block.js'

/**
 * The base: the model without an adapter. Merged: with weights to which the update was added. Baked: the adapter's matrices
 * are constants of the model. Injected: they are its inputs. lily-kernels: the layers of this package, with packed weights.
 */
export const ways = ['base', 'merged', 'baked', 'injected', 'lily-kernels'] as const
export type Way = (typeof ways)[number]

/** Outputs [B, N, d] by name. */
export type Outputs = ReadonlyMap<string, Float32Array>

/** A way with operands. */
export interface Bound {
  /** Computes the outputs. */
  readonly run: () => unknown
  readonly outputs: Outputs
}

/** The weights are in memory. */
export interface Opened {
  readonly way: Way
  /** With an input of one sequence, [1, N, d], and memory for the outputs. */
  bind(x: Tensor): Bound
  close(): unknown
}

function openSession(ort: Ort, way: Way, session: OrtSession, matrices: Record<string, OrtTensor>): Opened {
  return {
    way,
    bind: (x) => {
      const feeds = { x: new ort.Tensor('float32', x.data as Float32Array, x.shape), ...matrices }
      const outputs = new Map(layers.map(({ y }) => [y, new Float32Array(x.data.length)]))
      const fetches = Object.fromEntries(
        Array.from(outputs, ([name, data]) => [name, new ort.Tensor('float32', data, x.shape)]),
      )
      return { run: () => session.run(feeds, fetches), outputs }
    },
    close: () => session.release(),
  }
}

function openLayers(model: AdapterModel, weights: ReadonlyMap<string, Float32Array>, { d }: Sizes): Opened {
  const packed = new Map(
    Array.from(weights, ([name, data]) => [name, packLinear({ data, shape: [d, d], dtype: 'float32' })]),
  )
  return {
    way: 'lily-kernels',
    bind: (x) => {
      const tensors = new Map([['x', x], ...layers.map(({ y }) => [y, zeros(x.shape)] as const)])
      const calls = layers.map(({ name, x: from, y: to }) => {
        const operands = { x: tensors.get(from)!, weight: packed.get(name)!, y: tensors.get(to)! }
        return () => model.layer(name).forward(operands, { save: false, accumulate: false })
      })
      const run = () => {
        for (const call of calls) call()
      }
      return { run, outputs: new Map(layers.map(({ y }) => [y, tensors.get(y)!.data as Float32Array])) }
    },
    close: () => {
      for (const weight of packed.values()) weight.dispose()
    },
  }
}

/** Opens every way that there is for an adapter. */
export async function openWays(ort: Ort, adapter: AdapterName, sizes: Sizes, threads: number): Promise<Opened[]> {
  const weights = makeWeights(sizes)
  const model = makeAdapter(adapter, sizes)
  const base = blockModel(weights, sizes)
  const open = async (way: Way, bytes: Uint8Array, matrices: Record<string, OrtTensor> = {}): Promise<Opened> =>
    openSession(ort, way, await createSession(ort, bytes, threads), matrices)
  const opened = [await open('base', base)]
  if (isMergeable(adapter)) {
    opened.push(await open('merged', blockModel(mergedWeights(weights, adapter, sizes), sizes)))
  }
  const baked = await inject(base, model, { bake: true })
  opened.push(await open('baked', baked.bytes))
  const injected = await inject(base, model)
  opened.push(await open('injected', injected.bytes, await injected.feeds(model, ort.Tensor)))
  return [...opened, openLayers(model, weights, sizes)]
}

/** |found - expected| / |expected|, in the Frobenius norm. */
function difference(found: Float32Array, expected: Float32Array): number {
  let [distance, norm] = [0, 0]
  for (const [i, value] of expected.entries()) {
    distance += (found[i] - value) ** 2
    norm += value ** 2
  }
  return Math.sqrt(distance / norm)
}

/**
 * Compares the outputs of all ways with this package's: a time says little about wrong results. The base has no
 * adapter, and has to differ.
 *
 * @returns the largest difference, relative
 * @throws if a way differs by more than rounding explains
 */
export async function checkAgreement(bound: ReadonlyMap<Way, Bound>): Promise<number> {
  for (const { run } of bound.values()) await run()
  const ours = bound.get('lily-kernels')!.outputs
  let largest = 0
  for (const [way, { outputs }] of bound) {
    for (const [name, expected] of ours) {
      const value = difference(outputs.get(name)!, expected)
      if (way === 'base') {
        if (!(value > 0.01)) throw new Error(`the adapter changes output ${name} of the model by ${value} only`)
      } else if (value <= LIMITS.float32) largest = Math.max(largest, value)
      else {
        throw new Error(
          `wrong results: output ${name}, ${way}, differs from lily-kernels by ${value.toPrecision(2)} ` +
            `(relative; at most ${LIMITS.float32} is rounding)`,
        )
      }
    }
  }
  return largest
}
