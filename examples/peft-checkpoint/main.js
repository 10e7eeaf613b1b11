/**
 * Runs a Lily adapter that PEFT saved, in the model that it was trained for, and compares the output and the gradients
 * with those that PEFT recorded.
 *
 *     node examples/peft-checkpoint/main.js [folder] [--json]
 */
import { LilyModel, SafetensorsFile } from 'lily-kernels'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { TinyModel } from './model.js'

const json = process.argv.includes('--json')
const folder =
  process.argv.slice(2).find((argument) => !argument.startsWith('--')) ??
  fileURLToPath(new URL('../../test/fixtures/golden', import.meta.url))

const adapter = await LilyModel.fromPretrained(join(folder, 'peft_checkpoint'))
const expected = await readTensors(join(folder, 'peft_checkpoint_expected.safetensors'))
const model = new TinyModel(expected, adapter)

const y = model.forward(expected.get('x'))
const dx = model.backward(expected.get('dy'))

const results = [
  { name: 'y', error: relativeError(y, expected.get('y')) },
  { name: 'dx', error: relativeError(dx, expected.get('dx')) },
]
for (const { name, grad } of adapter.parameters().values()) {
  const recorded = expected.get(`grad.base_model.model.${name.replace(/\.weight$/, '.default.weight')}`)
  results.push({ name: `grad ${name}`, error: relativeError(grad, recorded) })
}

if (json) {
  console.log(JSON.stringify(results))
} else {
  const width = Math.max(...results.map(({ name }) => name.length))
  console.log(`${'tensor'.padEnd(width)}  relative error against PEFT`)
  for (const { name, error } of results) console.log(`${name.padEnd(width)}  ${error.toExponential(1)}`)
}

/** Reads all tensors of a file: a map from the name to { data, shape, dtype }. */
async function readTensors(path) {
  const file = await SafetensorsFile.open(path)
  const tensors = new Map()
  for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  await file.close()
  return tensors
}

/** |actual - expected| / |expected|, with Euclidean norms. */
function relativeError(actual, expected) {
  const difference = Math.hypot(...actual.data.map((value, i) => value - expected.data[i]))
  return difference / Math.hypot(...expected.data)
}
