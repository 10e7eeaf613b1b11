// Saves adapters into one folder, one after the other: FOLDER FORMAT FIRST COUNT. Everything in save i holds the number i:
// the scaling in the configuration, each parameter, and the weights of a frozen layer in every second one.
import { LilyModel } from 'lily-kernels'

const [folder, format, first, count] = process.argv.slice(2)
const layers = [0, 1, 2].map((l) => ({ name: `layers.${l}.q_proj`, inFeatures: 24, outFeatures: 16 }))

for (let i = Number(first); i < Number(first) + Number(count); i++) {
  const model = LilyModel.create({ layers, config: { r: 4, scaling: i, targetModules: ['q_proj'] } })
  for (const { value } of model.parameters().values()) value.data.fill(i)
  if (i % 2 === 0) model.freeze({ 'layers.1.q_proj': [i, -i] })
  await model.savePretrained(folder, { format })
  process.stdout.write('saved\n')
}
