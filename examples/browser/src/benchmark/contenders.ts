/** The calls that are compared: Lily, and LoRA of the same rank and of the same number of parameters. */
import {
  accountFor,
  lilyBackward,
  lilyBackwardAsync,
  lilyForward,
  lilyForwardAsync,
  loraBackward,
  loraBackwardAsync,
  loraForward,
  loraForwardAsync,
  tensor,
  type Tensor,
} from 'lily-kernels'
import type { Backend } from '../backend.js'
import type { Case } from './cases.js'

export const methods = ['lily', 'lora', 'lora-equal'] as const
export type Method = (typeof methods)[number]

export const passes = ['forward', 'forward + backward'] as const
export type Pass = (typeof passes)[number]

export interface Contender {
  /** One function per pass, which runs the pass once. */
  readonly calls: Readonly<Record<Pass, () => void>>
  /** Runs both passes once by the Async forms: they compile pipelines beside the page, and report what WebGPU reports late. */
  readonly warmUp: () => Promise<void>
}

/** The model in which LoRA gets as many parameters as Lily. */
export const MODEL = { layers: 32, strideA: 4 }

/** Rank, at least 1, at which LoRA in that model has about as many parameters as Lily. */
export function equalParametersRank({ features, rank, experts }: Case): number {
  const layers = Array.from({ length: MODEL.layers }, (_, l) => ({
    name: `layers.${l}.proj`,
    inFeatures: features,
    outFeatures: features,
  }))
  const config = { r: rank, numB: experts, strideA: MODEL.strideA, targetModules: ['proj'] }
  return Math.max(1, Math.round(accountFor(layers, config).loraRank))
}

/** The operands of all contenders, on the backend. */
export class Contenders {
  readonly #tensors: Tensor[] = []
  readonly #backend: Backend
  readonly byMethod: Readonly<Record<Method, Contender>>

  /** @throws LilyError if the device does not allow buffers of such sizes */
  constructor(backend: Backend, shape: Case) {
    this.#backend = backend
    const { tokens, features } = shape
    try {
      // First those without contents: what is too large is refused before it is filled.
      const y = this.#place(new Float32Array(tokens * features), [tokens, features])
      const dx = this.#place(new Float32Array(tokens * features), [tokens, features])
      const x = this.#filled([tokens, features], 1)
      const dy = this.#filled([tokens, features], 0.1)
      const activations = { x, y, dy, dx }
      this.byMethod = {
        lily: this.#lily(shape, activations),
        lora: this.#lora(features, shape.rank, activations),
        'lora-equal': this.#lora(features, equalParametersRank(shape), activations),
      }
    } catch (error) {
      this.dispose()
      throw error
    }
  }

  dispose(): void {
    for (const each of this.#tensors) each.dispose()
  }

  #lily({ features, rank, experts }: Case, { x, y, dy, dx }: Activations): Contender {
    const operands = {
      x,
      y,
      a: this.#filled([rank, features], features ** -0.5),
      router: this.#filled([experts, rank], rank ** -0.5),
      b: this.#filled([experts, rank, features], 0.02),
    }
    const gradients = {
      dy,
      dx,
      da: this.#zeros([rank, features]),
      dRouter: this.#zeros([experts, rank]),
      db: this.#zeros([experts, rank, features]),
    }
    return {
      calls: {
        forward: () => {
          lilyForward(operands).saved.dispose()
        },
        'forward + backward': () => {
          const { saved } = lilyForward(operands)
          lilyBackward(gradients, saved)
          saved.dispose()
        },
      },
      warmUp: async () => {
        const { saved } = await lilyForwardAsync(operands)
        await lilyBackwardAsync(gradients, saved)
        saved.dispose()
      },
    }
  }

  #lora(features: number, rank: number, { x, y, dy, dx }: Activations): Contender {
    const operands = {
      x,
      y,
      a: this.#filled([rank, features], features ** -0.5),
      b: this.#filled([features, rank], 0.02),
    }
    const gradients = { dy, dx, da: this.#zeros([rank, features]), db: this.#zeros([features, rank]) }
    return {
      calls: {
        forward: () => {
          loraForward(operands).saved.dispose()
        },
        'forward + backward': () => {
          const { saved } = loraForward(operands)
          loraBackward(gradients, saved)
          saved.dispose()
        },
      },
      warmUp: async () => {
        const { saved } = await loraForwardAsync(operands)
        await loraBackwardAsync(gradients, saved)
        saved.dispose()
      },
    }
  }

  #zeros(shape: readonly number[]): Tensor {
    return this.#place(new Float32Array(shape.reduce((product, size) => product * size)), shape)
  }

  #filled(shape: readonly number[], scale: number): Tensor {
    const length = shape.reduce((product, size) => product * size)
    const numbers = new Float32Array(length)
    for (let i = 0; i < length; i++) numbers[i] = scale * PATTERN[i % PATTERN.length]
    return this.#place(numbers, shape)
  }

  #place(numbers: Float32Array, shape: readonly number[]): Tensor {
    const placed = this.#backend.place(tensor(numbers, shape))
    this.#tensors.push(placed)
    return placed
  }
}

interface Activations {
  readonly x: Tensor
  readonly y: Tensor
  readonly dy: Tensor
  readonly dx: Tensor
}

/** Numbers from -1 to 1. Their count is a prime, so that rows differ. */
const PATTERN = Float32Array.from({ length: 65_521 }, (_, i) => ((i * i * 7919) % 211) / 105 - 1)
