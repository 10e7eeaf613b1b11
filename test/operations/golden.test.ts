/**
 * Comparison with recorded outputs of the public implementation (Hugging Face PEFT; see the index of the fixtures).
 *
 * float32: the error relative to PEFT's float64 run is at most four times that of PEFT's own float32 run, or 2e-6. The
 * reference of the other tests agrees with that float64 run. bfloat16, for all tensors or with parameters in float32: the
 * error relative to the reference on the rounded inputs is at most twice that of PEFT's run in these types. float32 on the
 * model of AMX, where precision 'tf32' rounds operands to two terms: the error relative to PEFT's float64 run is within the
 * tolerance that the reference derives.
 *
 * LILY_GOLDEN may name a folder with more cases.
 *
 * @project cpu amx wasm unshared webgpu cuda newer turing @asan
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { LilySaved } from '../../lib/index.js'
import { backward, forward, Matrix } from '../support/reference.js'
import { foldB, isModelled, lilyBackward, lilyForward } from '../support/backend.js'
import { expectClose, relativeError } from '../support/compare.js'
import { type Float, pack, roundAll, unpack } from '../support/dtypes.js'
import { readSafetensors, type StoredTensor } from '../support/safetensors.js'

interface Case {
  file: string
  scaling: number
  num_B: number
  r: number
}
interface Index {
  cases: Case[]
  multi_layer: (Case & { layers: number; stride_A: number })[]
}
type Tensors = Map<string, StoredTensor>

const more = process.env.LILY_GOLDEN
const folders = [fileURLToPath(new URL('../fixtures/golden', import.meta.url)), ...(more ? [more] : [])]

for (const folder of folders) {
  const index = JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8')) as Partial<Index>

  describe(`one layer (${folder === more ? 'LILY_GOLDEN' : 'fixtures'})`, () => {
    for (const { file, scaling } of index.cases ?? []) {
      it(file, async () => {
        const tensors = readSafetensors(join(folder, file))
        const y = copy(tensors, 'y0')
        const operands = { x: input(tensors, 'x'), a: input(tensors, 'A'), router: input(tensors, 'R') }
        const { saved } = await lilyForward({ ...operands, b: input(tensors, 'Bs'), y }, { scaling })
        const { dx, da, dRouter, db } = await lilyBackward({ dy: input(tensors, 'dy') }, saved)
        check(tensors, 'y', y.data)
        check(tensors, 'hidden', saved.hidden.data)
        check(tensors, 'p', saved.probabilities?.data)
        check(tensors, 'w', saved.weights?.data)
        check(tensors, 'dx', dx?.data)
        check(tensors, 'dA', da?.data)
        check(tensors, 'dR', dRouter?.data)
        check(tensors, 'dB', db?.data)
      })
    }
  })

  if (isModelled)
    describe(`one layer, terms of bfloat16 (${folder === more ? 'LILY_GOLDEN' : 'fixtures'})`, () => {
      for (const { file, scaling, num_B, r } of index.cases ?? []) {
        it(file, async () => {
          const tensors = readSafetensors(join(folder, file))
          const [x, a, router, b, dy] = ['x', 'A', 'R', 'Bs', 'dy'].map((name) => input(tensors, name))
          const y = copy(tensors, 'y0')
          const precision = 'tf32'
          const { saved } = await lilyForward({ x, a, router, b, y }, { scaling, precision })
          const { dx, da, dRouter, db } = await lilyBackward({ dy }, saved)

          const [dIn, dOut] = [x, dy].map(({ shape }) => shape[shape.length - 1])
          const sizes = { tokens: x.data.length / dIn, dIn, dOut, rank: r, experts: num_B }
          const operands = { x: x.data, a: a.data, router: router.data, b: b.data }
          const problem = { routing: 'batch', scaling, precision, ...sizes, ...operands } as const
          const expected = forward(problem)
          const gradients = backward(problem, expected, dy.data)
          const y0 = Matrix.exact(sizes.tokens, dOut, input(tensors, 'y0').data)
          const pairs = {
            y: [y, expected.y.plus(y0)],
            hidden: [saved.hidden, expected.hidden],
            p: [saved.probabilities, expected.probabilities],
            w: [saved.weights, expected.weights],
            dx: [dx, gradients.dx],
            dA: [da, gradients.da],
            dR: [dRouter, gradients.dRouter],
            dB: [db, gradients.db],
          } as const
          for (const [name, [actual, of]] of Object.entries(pairs)) {
            if (of === undefined) throw new Error(`no ${name}`)
            const exact = Float64Array.from(tensors.get(`f64.${name}`)?.data ?? [])
            expectClose(name, Float32Array.from(actual?.data ?? []), new Matrix(of.rows, of.cols, exact, of.variance))
          }
        })
      }
    })

  describe(`the reference (${folder === more ? 'LILY_GOLDEN' : 'fixtures'})`, () => {
    for (const { file, scaling, num_B, r } of index.cases ?? []) {
      it(file, () => {
        const tensors = readSafetensors(join(folder, file))
        const [x, a, router, b, y0, dy] = ['x', 'A', 'R', 'Bs', 'y0', 'dy'].map((name) => input(tensors, name))
        const [dIn, dOut] = [x, dy].map(({ shape }) => shape[shape.length - 1])
        const sizes = { tokens: x.data.length / dIn, dIn, dOut, rank: r, experts: num_B }
        const operands = { x: x.data, a: a.data, router: router.data, b: b.data }
        const problem = { routing: 'batch', scaling, ...sizes, ...operands } as const
        const saved = forward(problem)
        const { dx, da, dRouter, db } = backward(problem, saved, dy.data)
        const y = saved.y.value.map((value, i) => value + y0.data[i])
        const { hidden, probabilities, weights } = saved
        const ours = { hidden, p: probabilities, w: weights, dx, dA: da, dR: dRouter, dB: db }
        const values = { y, ...Object.fromEntries(Object.entries(ours).map(([name, m]) => [name, m?.value ?? []])) }
        for (const [name, value] of Object.entries(values)) {
          // Both are float64; the margin covers cancellation in a sharp router.
          expect(relativeError(value, tensors.get(`f64.${name}`)?.data ?? []), name).toBeLessThan(1e-11)
        }
      })
    }
  })

  const variants = { bf16p: 'bfloat16', bf16m: 'float32' } as const
  for (const [variant, parameters] of Object.entries(variants)) {
    describe(`activations in bfloat16, parameters in ${parameters} (${folder === more ? 'LILY_GOLDEN' : 'fixtures'})`, () => {
      for (const { file, scaling, num_B, r } of index.cases ?? []) {
        const tensors = readSafetensors(join(folder, file))
        if (!tensors.has(`${variant}.y`)) continue
        it(file, async () => {
          const { x, y0, dy } = roundedInputs(tensors, 'bfloat16', ['x', 'y0', 'dy'])
          const { A: a, R: router, Bs: b } = roundedInputs(tensors, parameters, ['A', 'R', 'Bs'])
          // With float32 parameters PEFT computes in float32, as precision high does.
          const options = { scaling, precision: 'high' } as const
          const { y, saved } = await lilyForward(
            { x: x.tensor, a: a.tensor, router: router.tensor, b: b.tensor, y: y0.tensor },
            options,
          )
          const { dx, da, dRouter, db } = await lilyBackward({ dy: dy.tensor }, saved)

          const [dIn, dOut] = [x, dy].map(({ tensor }) => tensor.shape[tensor.shape.length - 1])
          const sizes = { tokens: x.values.length / dIn, dIn, dOut, rank: r, experts: num_B }
          const operands = { x: x.values, a: a.values, router: router.values, b: b.values }
          const problem = { routing: 'batch', scaling, ...sizes, ...operands } as const
          const exact = forward(problem)
          const gradients = backward(problem, exact, dy.values)
          const pairs = {
            y: [y, exact.y.value.map((value, i) => value + y0.values[i])],
            hidden: [saved.hidden, exact.hidden.value],
            p: [saved.probabilities, exact.probabilities?.value],
            w: [saved.weights, exact.weights.value],
            dx: [dx, gradients.dx.value],
            dA: [da, gradients.da.value],
            dR: [dRouter, gradients.dRouter.value],
            dB: [db, gradients.db.value],
          } as const
          for (const [name, [actual, expected = []]] of Object.entries(pairs)) {
            const theirs = relativeError(tensors.get(`${variant}.${name}`)?.data ?? [], expected)
            const ours = relativeError(actual ? unpack(actual.dtype, actual.data) : [], expected)
            expect(ours, `${name}, PEFT ${theirs}`).toBeLessThanOrEqual(Math.max(2 * theirs, 2e-6))
          }
        })
      }
    })
  }

  // Layer l computes y_l = x_l + adapter(x_l), the input of the next layer. Neighbouring layers share A, all layers share B.
  describe(`chained layers (${folder === more ? 'LILY_GOLDEN' : 'fixtures'})`, () => {
    for (const { file, scaling, layers, stride_A } of index.multi_layer ?? []) {
      for (const deferB of [false, true]) {
        it(`${file}, dB ${deferB ? 'deferred and folded' : 'accumulated'}`, async () => {
          const tensors = readSafetensors(join(folder, file))
          const a = Array.from({ length: Math.ceil(layers / stride_A) }, (_, i) => input(tensors, `A${i}`))
          const da = a.map(zerosLike)
          const b = input(tensors, 'Bs')
          const db = zerosLike(b)
          const saved: LilySaved[] = []
          let x = input(tensors, 'x')
          for (let l = 0; l < layers; l++) {
            const y = { data: x.data.slice(), shape: x.shape }
            const operands = { x, a: a[Math.floor(l / stride_A)], router: input(tensors, `R${l}`), b, y }
            saved.push((await lilyForward(operands, { scaling })).saved)
            check(tensors, `y${l}`, y.data)
            x = y
          }
          // The gradient of y passes the layer unchanged (y = x + ...), and dx accumulates into it.
          const gradient = copy(tensors, 'dy')
          for (let l = layers - 1; l >= 0; l--) {
            const dy = { data: gradient.data.slice(), shape: gradient.shape }
            const outputs = { dy, dx: gradient, da: da[Math.floor(l / stride_A)] }
            const { dRouter } = await lilyBackward(deferB ? outputs : { ...outputs, db }, saved[l], { deferB })
            check(tensors, `dR${l}`, dRouter?.data)
          }
          if (deferB) await foldB(saved, db)
          check(tensors, 'dx', gradient.data)
          check(tensors, 'dB', db.data)
          da.forEach((value, i) => {
            check(tensors, `dA${i}`, value.data)
          })
        })
      }
    }
  })
}

interface HostTensor {
  data: Float32Array
  shape: readonly number[]
}

/** Inputs rounded to a type: as operands of the calls, and as numbers for the reference. */
function roundedInputs<Name extends string>(tensors: Tensors, dtype: Float, names: Name[]) {
  const rounded = (name: Name) => {
    const { data, shape } = input(tensors, name)
    return { tensor: { data: pack(dtype, data), shape, dtype }, values: roundAll(dtype, data) }
  }
  return Object.fromEntries(names.map((name) => [name, rounded(name)])) as Record<Name, ReturnType<typeof rounded>>
}

function input(tensors: Tensors, name: string): HostTensor {
  const tensor = tensors.get(name)
  if (!(tensor?.data instanceof Float32Array)) throw new Error(`the golden file lacks a float32 ${name}`)
  return { data: tensor.data, shape: tensor.shape }
}

function copy(tensors: Tensors, name: string): HostTensor {
  const { data, shape } = input(tensors, name)
  return { data: data.slice(), shape }
}

function zerosLike({ data, shape }: HostTensor): HostTensor {
  return { data: new Float32Array(data.length), shape }
}

function check(tensors: Tensors, name: string, actual: ArrayLike<number> | undefined): void {
  const exact = tensors.get(`f64.${name}`)?.data ?? []
  const theirs = tensors.get(`f32.${name}`)?.data ?? []
  const limit = Math.max(4 * relativeError(theirs, exact), 2e-6)
  expect(exact.length, `f64.${name}`).toBeGreaterThan(0)
  expect(relativeError(actual ?? [], exact), name).toBeLessThanOrEqual(limit)
}
