/**
 * AdamW on the backend under test, step by step. This file is also the program of child processes with other environment
 * variables, so it does not import the test runner.
 */
import { fileURLToPath } from 'node:url'
import { AdamW, type AdamWOptions, type AdamWStepOptions, backends, type TensorLike } from '../../lib/index.js'
import { backend } from './backend.js'
import { type DeviceArray, deviceArray } from './device-array.js'
import { type Float, pack, unpack } from './dtypes.js'
import { answer, ask } from './fork.js'

/** An array on the backend under test, with margins before and after it that must not be written to. */
export class Placed {
  readonly tensor: TensorLike
  readonly #host: Float32Array | Uint16Array
  readonly #array: DeviceArray | null = null

  constructor(
    values: ArrayLike<number>,
    readonly shape: readonly number[],
    readonly dtype: Float = 'float32',
    readonly margin = 0,
  ) {
    this.#host = pack(dtype, this.#padded(values))
    const byteOffset = margin * this.#host.BYTES_PER_ELEMENT
    if (backend === 'cpu') {
      this.tensor = { data: this.#host, shape, dtype, byteOffset }
      return
    }
    const array = deviceArray(backend, this.#host.byteLength)
    array.upload(bytesOf(this.#host))
    this.#array = array
    this.tensor = array.operand({ shape, dtype, byteOffset })
  }

  #padded(values: ArrayLike<number>): Float32Array {
    const padded = new Float32Array(values.length + 2 * this.margin).fill(NaN)
    padded.set(values, this.margin)
    return padded
  }

  write(values: ArrayLike<number>): void {
    this.#host.set(pack(this.dtype, this.#padded(values)))
    this.#array?.upload(bytesOf(this.#host))
  }

  /** Reads the numbers and checks the margins. */
  async read(): Promise<Float32Array> {
    if (this.#array !== null) bytesOf(this.#host).set(await this.#array.download())
    const all = unpack(this.dtype, this.#host)
    const inner = all.slice(this.margin, all.length - this.margin)
    const around = [...all.slice(0, this.margin), ...all.slice(all.length - this.margin)]
    if (!around.every(Number.isNaN)) throw new Error('the margins of an array were written to')
    return inner
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

export interface TrainedParameter {
  readonly name: string
  readonly shape: readonly number[]
  readonly dtype?: Float | undefined
  readonly gradDtype?: Float | undefined
  readonly margin?: number | undefined
  readonly start: ArrayLike<number>
  /** One gradient per step. */
  readonly gradients: readonly ArrayLike<number>[]
}

export interface Moments {
  expAvg: Record<string, Float32Array>
  expAvgSq: Record<string, Float32Array>
}

export interface History extends Moments {
  /** The values after each step. */
  values: Record<string, Float32Array>[]
  norms: number[]
}

/** Parameters on the backend under test, with an optimiser. */
export class Training {
  readonly values: Map<string, Placed>
  readonly grads: Map<string, Placed>
  readonly parameters: Map<string, { value: TensorLike; grad: TensorLike }>
  readonly optimiser: AdamW

  constructor(
    readonly trained: readonly TrainedParameter[],
    options: AdamWOptions,
  ) {
    const dtype = ({ dtype = 'float32', gradDtype = dtype }: TrainedParameter) => ({ dtype, gradDtype })
    this.values = new Map(trained.map((p) => [p.name, new Placed(p.start, p.shape, dtype(p).dtype, p.margin)]))
    this.grads = new Map(
      trained.map((p) => [p.name, new Placed(new Float32Array(p.start.length), p.shape, dtype(p).gradDtype, p.margin)]),
    )
    this.parameters = new Map(
      trained.map(({ name }) => [name, { value: this.values.get(name)!.tensor, grad: this.grads.get(name)!.tensor }]),
    )
    this.optimiser = new AdamW(this.parameters, options)
  }

  writeGradients(step: number): void {
    for (const { name, gradients } of this.trained) this.grads.get(name)?.write(gradients[step])
  }

  step(step: number, options?: AdamWStepOptions): void {
    this.writeGradients(step)
    this.optimiser.step(options)
  }

  async read(): Promise<Record<string, Float32Array>> {
    const read: Record<string, Float32Array> = {}
    for (const [name, placed] of this.values) read[name] = await placed.read()
    return read
  }

  async moments(): Promise<Moments> {
    const moments: Moments = { expAvg: {}, expAvgSq: {} }
    for (const [name, { expAvg, expAvgSq }] of Object.entries(this.optimiser.state().parameters)) {
      moments.expAvg[name] = (await expAvg.toHost()).data as Float32Array
      moments.expAvgSq[name] = (await expAvgSq.toHost()).data as Float32Array
    }
    return moments
  }

  async norm(): Promise<number | undefined> {
    return (await this.optimiser.gradNorm?.toHost())?.data[0]
  }
}

/** Runs one step per gradient, with the factor that a schedule has for the number of steps done before. */
export async function train(
  trained: readonly TrainedParameter[],
  options: AdamWOptions,
  schedule: (step: number) => number = () => 1,
): Promise<History> {
  const training = new Training(trained, options)
  const values: History['values'] = []
  const norms: number[] = []
  for (const step of trained[0].gradients.keys()) {
    training.step(step, { lrScale: schedule(training.optimiser.stepCount) })
    values.push(await training.read())
    const norm = await training.norm()
    if (norm !== undefined) norms.push(norm)
  }
  return { values, norms, ...(await training.moments()) }
}

export interface Job {
  trained: readonly TrainedParameter[]
  options: AdamWOptions
}

/** Runs train in a child process. Returns undefined if the backend is not available there. */
export async function trainInChild(job: Job, env: Record<string, string>): Promise<History | undefined> {
  return (await ask<{ history?: History }>(fileURLToPath(import.meta.url), job, env)).history
}

answer(async ({ trained, options }: Job) => {
  const [{ available }] = backends()
  return available ? { history: await train(trained, options) } : {}
})
