// Goes on with the training in a folder up to a number of steps, and saves after each of them: FOLDER FORMAT STEPS.
import { AdamW, LilyModel, readPretrainedState, tensor } from 'lily-kernels'

const [folder, format, steps] = process.argv.slice(2)
const model = await LilyModel.fromPretrained(folder)
const optimiser = new AdamW(model.parameters(), { lr: 0.01, weightDecay: 0.1, maxNorm: 1 })
optimiser.load(await readPretrainedState(folder, model))

while (optimiser.stepCount < Number(steps)) {
  const x = Float32Array.from({ length: 8 * 24 }, (_, i) => Math.sin(i * (optimiser.stepCount + 1)))
  for (const layer of model.layers.values()) {
    const { y, saved } = layer.forward({ x: tensor(x, [8, 24]) })
    layer.backward({ dy: y, saved }) // the gradient of the loss |y|^2 / 2
  }
  optimiser.step()
  model.zeroGrad()
  await model.savePretrained(folder, { format, optimiser })
  process.stdout.write('saved\n')
}
