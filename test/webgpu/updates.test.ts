/** The fold of deferred gradients and AdamW on GPU buffers, compared with their formulas in float64. */
import { expect, test } from 'vitest'
import type { FoldCall, NumberType, Region } from '../../lib/binding/gpu-call.js'
import { planStep } from '../../lib/optimiser/gpu-step.js'
import { GpuKernels } from '../../lib/webgpu/kernels.js'
import { checkHistory } from '../support/adamw.js'
import { expectClose } from '../support/compare.js'
import { pack, unpack } from '../support/dtypes.js'
import { testGpu } from '../support/gpu-device.js'
import { gaussian, randomFrom } from '../support/random.js'
import type { History, TrainedParameter } from '../support/training.js'
import { Matrix } from '../support/reference.js'
import { readBuffer, submit } from './run.js'

const { device } = testGpu()
const kernels = new GpuKernels(device)

/** A number that no result has, in front of and behind the numbers of a buffer. */
const GUARD = 7

/** Numbers in a buffer, `margin` elements from its start. */
class Numbers {
  readonly region: Region & { dtype: NumberType }
  readonly #length: number

  constructor(
    readonly dtype: NumberType,
    values: ArrayLike<number>,
    readonly margin = 0,
  ) {
    const guards = new Array<number>(margin).fill(GUARD)
    const packed = pack(dtype, [...guards, ...Array.from(values), GUARD, GUARD, GUARD])
    const bytes = new Uint8Array(Math.ceil(packed.byteLength / 4) * 4)
    bytes.set(new Uint8Array(packed.buffer))
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage
    const buffer = device.createBuffer({ size: bytes.length, usage: STORAGE | COPY_SRC | COPY_DST })
    device.queue.writeBuffer(buffer, 0, bytes)
    this.region = { buffer, byteOffset: margin * packed.BYTES_PER_ELEMENT, dtype }
    this.#length = values.length
  }

  /** The numbers; what surrounds them must be unchanged. */
  async read(): Promise<Float32Array> {
    const { buffer } = await readBuffer(device, this.region.buffer)
    const all = unpack(this.dtype, this.dtype === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer))
    const end = this.margin + this.#length
    const around = [...all.subarray(0, this.margin), ...all.subarray(end, end + 3)]
    expect(around).toEqual(around.map(() => GUARD))
    return all.slice(this.margin, end)
  }
}

for (const [dtype, accumulate, margin] of [
  ['float32', true, 1],
  ['bfloat16', true, 1],
  ['float16', false, 2],
] as const)
  test(`fold of seven layers into ${dtype}, ${accumulate ? 'added' : 'overwritten'}`, async () => {
    const [experts, rank, dOut] = [5, 3, 34]
    const random = randomFrom(1)
    const old = accumulate ? gaussian(random, experts * rank * dOut) : new Float32Array(experts * rank * dOut).fill(NaN)
    const db = new Numbers(dtype, old, margin)
    const before = accumulate ? await db.read() : new Float32Array(old.length)
    let expected = Matrix.exact(experts, rank * dOut, before)
    const layers: FoldCall['layers'][number][] = []
    for (const partials of [2, 0, 1, experts, 1, 3, experts, 2]) {
      const isWeighted = partials === experts
      const matrices = gaussian(random, partials * rank * dOut)
      const weights = isWeighted ? null : gaussian(random, partials * experts)
      for (let e = 0; e < experts; e++)
        for (let i = 0; i < rank * dOut; i++)
          for (let g = 0; g < (isWeighted ? 1 : partials); g++) {
            const at = e * rank * dOut + i
            const weight = weights === null ? 1 : weights[g * experts + e]
            expected.value[at] += weight * matrices[(isWeighted ? e : g) * rank * dOut + i]
            expected.variance[at] += expected.value[at] ** 2
          }
      layers.push({
        partials,
        matrices: new Numbers('float32', matrices).region,
        weights: weights && new Numbers('float32', weights).region,
      })
    }
    expected = expected.rounded(dtype, true)
    const call = { experts, rank, dOut, db: { ...db.region, pitch: dOut, accumulate }, layers }
    await submit(device, (encoder, allocate) => kernels.encode([{ name: 'fold', call }], encoder, allocate))
    expectClose('db', await db.read(), expected)
  })

test('a fold without matrices overwrites with zeros', async () => {
  const db = new Numbers('bfloat16', new Float32Array(12).fill(NaN), 1)
  const call = { experts: 2, rank: 3, dOut: 2, db: { ...db.region, pitch: 2, accumulate: false }, layers: [] }
  await submit(device, (encoder, allocate) => kernels.encode([{ name: 'fold', call }], encoder, allocate))
  expect(await db.read()).toEqual(new Float32Array(12))
})

for (const maxNorm of [undefined, 0.5])
  test(`AdamW ${maxNorm === undefined ? 'without' : 'with'} clipping`, async () => {
    const random = randomFrom(2)
    const trained = (
      [
        ['float32', 'float32', 20_000, 1],
        ['bfloat16', 'bfloat16', 1001, 1],
        ['float16', 'float32', 514, 2],
        ['float32', 'float32', 1, 0],
      ] as const
    ).map(([dtype, gradDtype, length, margin], i): TrainedParameter => ({
      name: `p${i}`,
      shape: [length],
      dtype,
      gradDtype,
      margin,
      start: gaussian(random, length),
      gradients: [1, 0.01, 3].map((size) => gaussian(random, length, size)),
    }))
    const options = { lr: 1e-2, betas: [0.9, 0.99] as const, eps: 1e-8, weightDecay: 0.1, maxNorm }
    const state = trained.map(({ name, dtype = 'float32', margin = 0, start }) => {
      const zeros = new Float32Array(start.length)
      const [expAvg, expAvgSq] = [new Numbers('float32', zeros), new Numbers('float32', zeros)]
      return { name, value: new Numbers(dtype, start, margin), expAvg, expAvgSq }
    })
    const norm = maxNorm === undefined ? null : new Numbers('float32', [0])
    const history: History = { values: [], norms: [], expAvg: {}, expAvgSq: {} }
    for (let step = 1; step <= 3; step++) {
      const parameters = trained.map(({ start, gradDtype = 'float32', margin, gradients }, i) => ({
        elements: start.length,
        lr: options.lr,
        weightDecay: options.weightDecay,
        value: state[i].value.region,
        grad: new Numbers(gradDtype, gradients[step - 1], margin).region,
        expAvg: state[i].expAvg.region,
        expAvgSq: state[i].expAvgSq.region,
      }))
      const [beta1, beta2] = options.betas
      const call = {
        step,
        beta1,
        beta2,
        eps: options.eps,
        maxNorm: maxNorm ?? 0,
        norm: norm && norm.region,
        skipped: null,
        parameters,
      }
      await submit(device, (encoder, allocate) =>
        kernels.encode([{ name: 'plan', call: planStep(call) }], encoder, allocate),
      )
      const values: Record<string, Float32Array> = {}
      for (const { name, value } of state) values[name] = await value.read()
      history.values.push(values)
      if (norm !== null) history.norms.push((await norm.read())[0])
    }
    for (const { name, expAvg, expAvgSq } of state) {
      history.expAvg[name] = await expAvg.read()
      history.expAvgSq[name] = await expAvgSq.read()
    }
    checkHistory(history, trained, options)
  })
