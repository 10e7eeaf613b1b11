/**
 * Runs a Lily adapter that PEFT saved, in the model it was trained for, and compares with PEFT's own numbers.
 *
 *     node examples/peft-checkpoint/main.js [folder] [--json]
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readAdapter } from './adapter.js'
import { TinyModel } from './model.js'
import { readSafetensors } from './safetensors.js'

const LAYERS = 4
const json = process.argv.includes('--json')
const folder =
  process.argv.slice(2).find((argument) => !argument.startsWith('--')) ??
  fileURLToPath(new URL('../../test/fixtures/golden', import.meta.url))

const expected = readSafetensors(join(folder, 'peft_checkpoint_expected.safetensors'))
const { adapters, parameters } = readAdapter(join(folder, 'peft_checkpoint'), LAYERS)
const model = new TinyModel(expected, adapters)

const y = model.forward(expected.get('x'))
const dx = model.backward(expected.get('dy'))

const results = [
  { name: 'y', error: relativeError(y, expected.get('y')) },
  { name: 'dx', error: relativeError(dx, expected.get('dx')) },
]
for (const { name, grad } of parameters.values()) {
  const recorded = expected.get(`grad.${name.replace(/\.weight$/, '.default.weight')}`)
  results.push({ name: `grad ${name.replace('base_model.model.', '')}`, error: relativeError(grad, recorded) })
}

if (json) {
  console.log(JSON.stringify(results))
} else {
  const width = Math.max(...results.map(({ name }) => name.length))
  console.log(`${'tensor'.padEnd(width)}  relative error against PEFT`)
  for (const { name, error } of results) console.log(`${name.padEnd(width)}  ${error.toExponential(1)}`)
}

/** |actual - expected| / |expected|, Euclidean norms. */
function relativeError(actual, expected) {
  const difference = Math.hypot(...actual.data.map((value, i) => value - expected.data[i]))
  return difference / Math.hypot(...expected.data)
}
