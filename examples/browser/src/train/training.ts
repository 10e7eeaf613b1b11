/** The training of docs/model.md: two layers that share A and three experts learn to flip the sign of 4 of 16 features. */
import { AdamW, LilyModel, tensor, type Tensor } from 'lily-kernels'
import type { Backend } from '../backend.js'

export interface Step {
  readonly step: number
  /** Mean squared error before the step. */
  readonly loss: number
}

const SHAPE = [64, 16]
const NAMES = ['layers.0.proj', 'layers.1.proj']

/** Trains, and yields the loss of each step, from step 0 to `steps`. */
export async function* train({ memory, place, read }: Backend, steps: number): AsyncGenerator<Step, void> {
  const layers = NAMES.map((name) => ({ name, inFeatures: 16, outFeatures: 16 }))
  const config = { r: 4, numB: 3, strideA: 2, targetModules: ['proj'] }
  const model = LilyModel.create({ layers, config, seed: 1 }).to(memory)
  const [first, second] = NAMES.map((name) => model.layer(name))
  const optimiser = new AdamW(model.parameters(), { lr: 0.02 })

  // The frozen layers return their input unchanged.
  const input = Float32Array.from({ length: 64 * 16 }, (_, i) => ((i * i * 7919) % 211) / 105 - 1)
  const target = input.map((value, i) => (i % 16 < 4 ? -value : value))

  try {
    for (let step = 0; step <= steps; step++) {
      const used: { dispose(): void }[] = []
      const keep = <T extends { dispose(): void }>(object: T): T => {
        used.push(object)
        return object
      }
      const put = (numbers: Float32Array): Tensor => keep(place(tensor(numbers, SHAPE)))
      const copyOf = async (source: Tensor): Promise<Tensor> => put((await read(source)).slice())
      try {
        const x = put(input.slice())
        const hidden = first.forward({ x, y: await copyOf(x) })
        keep(hidden.saved)
        const output = second.forward({ x: hidden.y, y: await copyOf(hidden.y) })
        keep(output.saved)

        const error = (await read(output.y)).map((value, i) => value - target[i])
        yield { step, loss: error.reduce((sum, value) => sum + value * value, 0) / error.length }

        const dy = put(error.map((value) => (2 * value) / error.length))
        const dHidden = second.backward({ dy, saved: output.saved, dx: await copyOf(dy) })
        first.backward({ dy: dHidden, saved: hidden.saved }, { needs: { dx: false } })
        optimiser.step()
        model.zeroGrad()
      } finally {
        for (const object of used) object.dispose()
      }
    }
  } finally {
    model.dispose()
  }
}
