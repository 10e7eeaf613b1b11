/** An adapter for readers who have none at hand. */
import { LilyModel } from 'lily-kernels'
import { normal } from './random-inputs.js'

/**
 * The files of a Lily adapter of eight layers. It is not trained: its numbers are made such that experts resemble each
 * other in part, later rows of B are smaller than earlier ones, and routers have preferences.
 */
export async function sampleFiles(): Promise<File[]> {
  const layers = ['q_proj', 'v_proj'].flatMap((target) =>
    [0, 1, 2, 3, 4, 5].map((l) => ({ name: `layers.${l}.${target}`, inFeatures: 64, outFeatures: 64 })),
  )
  const config = { r: 8, strideA: 2, numB: 4, scaling: 2, targetModules: ['q_proj', 'v_proj'] }
  const model = LilyModel.create({ layers, config, seed: 1 })
  let seed = 1
  for (const { name, value } of model.parameters().values()) {
    const data = value.data as Float32Array
    if (name.includes('router')) {
      const scale = 0.5 + (seed % 5)
      data.set(normal(data.length, seed++).map((number) => scale * number))
    } else if (name.includes('lily_B')) {
      fillExperts(data, config.numB, value.shape[1], seed++)
    }
  }
  return model.pretrainedFiles()
}

/** @param data [E, r, d_out] */
function fillExperts(data: Float32Array, experts: number, width: number, seed: number): void {
  const rank = data.length / experts / width
  const own = normal(data.length, seed)
  const common = normal(rank * width, seed + 1000)
  for (let e = 0; e < experts; e++) {
    for (let i = 0; i < rank * width; i++) {
      const row = Math.floor(i / width)
      const at = e * rank * width + i
      // The last expert points away from what the others have in common.
      data[at] = 0.02 * 0.7 ** row * (own[at] + (e === experts - 1 ? -0.5 : 0.4 * e) * common[i])
    }
  }
}
