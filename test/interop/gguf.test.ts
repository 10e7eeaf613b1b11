/** GGUF adapters in llama.cpp itself, by node-llama-cpp. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { type GgufOptions, saveGguf } from '../../lib/gguf/index.js'
import { LilyModel, LoraModel } from '../../lib/index.js'
import { decodeGguf } from '../support/gguf-decode.js'
import { programsOf, requiredBy } from '../support/guides.js'
import { installOnce } from '../support/npm-install.js'
import { gaussian, randomFrom } from '../support/random.js'
import { temporaryFolder } from '../support/temporary.js'
import { baseModel, CONFIG, LAYERS, VOCABULARY, weights } from '../support/tiny-llama.js'

const LIBRARIES = ['node-llama-cpp@3.22.1', '@node-llama-cpp/linux-x64@3.22.1']
const folder = temporaryFolder()
const file = (name: string) => join(folder, name)
/** llama.cpp keeps keys and values in float16. */
const ROUNDING = 4e-3
const targetModules = LAYERS.map(({ name }) => name)

let project: string
beforeAll(() => {
  // The optional packages are builds for other machines, of 650 MB.
  project = installOnce('llama', LIBRARIES, '--omit=optional')
  copyFileSync(join(packageRoot, 'test/programs/llama.js'), join(project, 'llama.mjs'))
  writeFileSync(file('base.gguf'), baseModel(weights()))
}, 600_000)

/** The probabilities of the next token. */
function probabilities(model: string, ...adapters: string[]): number[] {
  const output = execFileSync(process.execPath, ['llama.mjs', file(model), ...adapters.map(file)], { cwd: project })
  const pairs = JSON.parse(output.toString()) as [number, number][]
  const result = new Array<number>(VOCABULARY).fill(0)
  for (const [token, probability] of pairs) result[token] = probability
  return result
}

/** The largest difference of the logarithms, which is that of logits but for a constant. */
function distance(left: readonly number[], right: readonly number[]): number {
  const counted = left.flatMap((value, token) => (value > 1e-6 && right[token] > 1e-6 ? [token] : []))
  expect(counted.length).toBeGreaterThan(VOCABULARY / 8)
  return Math.max(...counted.map((token) => Math.abs(Math.log(left[token] / right[token]))))
}

function randomize(model: LoraModel | LilyModel): void {
  const random = randomFrom(9)
  for (const { b } of model.layers.values()) b.value.data.set(gaussian(random, b.value.data.length, 0.3))
}

/** Writes the adapter, and the base model with the weights merged. */
async function write(name: string, model: LoraModel | LilyModel, options: Partial<GgufOptions> = {}): Promise<void> {
  await saveGguf(file(`${name}.gguf`), model, { base: CONFIG, ...options })
  const merged = weights()
  for (const { name: layer, inFeatures, outFeatures } of LAYERS)
    model.merge(layer, { data: merged.get(layer) as Float32Array, shape: [outFeatures, inFeatures] })
  writeFileSync(file(`${name}-merged.gguf`), baseModel(merged))
}

const lora = (config: object = {}) => {
  const model = LoraModel.create({ layers: LAYERS, config: { r: 4, loraAlpha: 8, targetModules, ...config }, seed: 1 })
  randomize(model)
  return model
}

describe('node-llama-cpp', () => {
  const models: Record<string, () => LoraModel | LilyModel> = {
    lora: () => lora(),
    'alphas and ranks by layer': () =>
      lora({ alphaPattern: { q_proj: 3 }, rankPattern: { k_proj: 2 }, useRslora: true }),
    'lily, uniform': () => {
      const config = { r: 4, numB: 3, scaling: 1.5, routing: 'uniform', targetModules } as const
      const model = LilyModel.create({ layers: LAYERS, config, seed: 2 })
      randomize(model)
      return model
    },
  }
  it.each(Object.entries(models))('computes what merged weights compute: %s', async (name, create) => {
    await write(name, create())
    const expected = probabilities(`${name}-merged.gguf`)
    expect(distance(probabilities('base.gguf', `${name}.gguf`), expected)).toBeLessThan(ROUNDING)
    expect(distance(probabilities('base.gguf'), expected)).toBeGreaterThan(20 * ROUNDING)
  })

  it('computes it within the rounding of float16', async () => {
    await write('half', lora(), { dtype: 'float16' })
    expect(distance(probabilities('base.gguf', 'half.gguf'), probabilities('half-merged.gguf'))).toBeLessThan(
      2 * ROUNDING,
    )
  })
})

it('docs/serving.md: the program with node-llama-cpp', async () => {
  const [{ source }] = programsOf('docs/serving.md').filter((program) => requiredBy(program.source) === 'llama')
  const config = { r: 4, numB: 2, initWeights: false, targetModules } as const
  await LilyModel.create({ layers: LAYERS, config, seed: 2 }).savePretrained(join(project, 'adapter'))
  mkdirSync(join(project, 'base'), { recursive: true })
  writeFileSync(join(project, 'base', 'config.json'), JSON.stringify(CONFIG))
  copyFileSync(file('base.gguf'), join(project, 'base', 'model.gguf'))
  const own = join(project, 'node_modules', 'lily-kernels')
  if (!existsSync(own)) symlinkSync(packageRoot, own)
  writeFileSync(join(project, 'program.mjs'), source)
  // What a random model says may be nothing. A context with an adapter that llama.cpp refuses would throw.
  execFileSync(process.execPath, ['program.mjs'], { cwd: project })
  const { tensors } = decodeGguf(Uint8Array.from(readFileSync(join(project, 'adapter.gguf'))).buffer)
  expect(tensors.size).toBe(2 * LAYERS.length)
})
