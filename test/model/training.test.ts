/**
 * Training on a small regression, and resuming from a saved state with bit-equal results.
 *
 * @project cpu wasm webgpu cuda
 */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { AdamW, type AdamWState, LilyModel, SafetensorsFile, type Tensor, writeSafetensors } from '../../lib/index.js'
import { isEmulated, isWebGpu } from '../support/backend.js'
import { isLong } from '../support/runs.js'
import { newFolder } from '../support/checkpoint.js'
import { createModel, moved, numbersOf, place, runChain, setValues } from '../support/model.js'
import { gaussian, randomFrom } from '../support/random.js'

const [tokens, width] = [24, 16]
const layers = [0, 1, 2].map((l) => ({ name: `layers.${l}.proj`, inFeatures: width, outFeatures: width }))
// Settings in which the experts matter: a larger scaling, and A shared by two layers of three.
const config = { r: 4, numB: 2, strideA: 2, scaling: 2, targetModules: ['proj'] }
const settings = { lr: 0.02, weightDecay: 0.001, maxNorm: 1, groups: [{ match: /lily_B/, lr: 0.04 }] }

const random = randomFrom(11)
const input = gaussian(random, tokens * width)
const [teacher, target] = await (async () => {
  const model = createModel({ layers, config, seed: 1 })
  await setValues(model, () => 0.3 * gaussian(random, 1)[0])
  const { outputs } = await runChain(model, input, [tokens, width], new Float32Array(tokens * width))
  return [model, outputs.at(-1)!] as const
})()
teacher.dispose()

/** Mean squared error before the step. */
async function step(model: LilyModel, optimiser: AdamW): Promise<number> {
  const output = (await runChain(model, input, [tokens, width], new Float32Array(tokens * width))).outputs.at(-1)!
  const difference = output.map((value, i) => value - target[i])
  // Forward again, now with the gradient: d/dy of the mean.
  model.zeroGrad()
  await runChain(
    model,
    input,
    [tokens, width],
    difference.map((value) => (2 * value) / output.length),
  )
  optimiser.step()
  return difference.reduce((sum, value) => sum + value * value, 0) / output.length
}

async function steps(model: LilyModel, optimiser: AdamW, count: number): Promise<number> {
  let loss = NaN
  for (let i = 0; i < count; i++) loss = await step(model, optimiser)
  return loss
}

const valuesOf = (model: LilyModel): Promise<Float32Array[]> =>
  Promise.all([...model.parameters().values()].map(({ value }) => numbersOf(value)))

/** Writes the state of the optimiser to a file, as a user would. */
async function writeState(path: string, { step, parameters }: AdamWState): Promise<void> {
  const tensors = Object.entries(parameters).flatMap(([name, { expAvg, expAvgSq }]): [string, Tensor][] => [
    [`${name}.expAvg`, expAvg],
    [`${name}.expAvgSq`, expAvgSq],
  ])
  await writeSafetensors(path, new Map(tensors), new Map([['step', String(step)]]))
}

async function readState(path: string): Promise<Parameters<AdamW['load']>[0]> {
  const file = await SafetensorsFile.open(path)
  try {
    const names = new Set([...file.tensors.keys()].map((name) => name.replace(/\.expAvg(Sq)?$/, '')))
    const parameters: Record<string, { expAvg: Tensor; expAvgSq: Tensor }> = {}
    for (const name of names) {
      const [expAvg, expAvgSq] = await Promise.all(
        ['expAvg', 'expAvgSq'].map(async (kind) => {
          const { data, shape } = await file.read(`${name}.${kind}`)
          return place(data, shape)
        }),
      )
      parameters[name] = { expAvg, expAvgSq }
    }
    return { step: Number(file.metadata.get('step')), parameters }
  } finally {
    await file.close()
  }
}

// On the emulator a step takes up to a second.
const [part, count] = (isEmulated || isWebGpu) && !isLong ? [5, 30] : [10, 60]

describe('a regression on the outputs of another adapter', () => {
  it(`reaches 1 / ${part} of its first loss in ${count} steps`, async () => {
    const model = createModel({ layers, config, seed: 2 })
    const optimiser = new AdamW(model.parameters(), settings)
    const first = await step(model, optimiser)
    const last = await steps(model, optimiser, count)
    expect(first).toBeGreaterThan(0.1)
    expect(last).toBeLessThan(first / part)
  })

  it('continues bit for bit after saving and loading model and optimiser', async () => {
    const model = createModel({ layers, config, seed: 2 })
    const optimiser = new AdamW(model.parameters(), settings)
    await steps(model, optimiser, 5)
    const folder = newFolder()
    await model.savePretrained(folder)
    await writeState(join(folder, 'optimiser.safetensors'), optimiser.state())
    const loss = await steps(model, optimiser, 5)

    const resumed = moved(await LilyModel.fromPretrained(folder))
    const again = new AdamW(resumed.parameters(), settings)
    again.load(await readState(join(folder, 'optimiser.safetensors')))
    expect(await steps(resumed, again, 5)).toBe(loss)
    expect(await valuesOf(resumed)).toEqual(await valuesOf(model))
  })
})
