/** The programs of docs/serving.md with onnxruntime-node and Transformers.js, on the tiny models. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { LilyModel } from '../../lib/index.js'
import { relativeError } from '../support/compare.js'
import { programsOf, requiredBy } from '../support/guides.js'
import { interopProject } from '../support/interop.js'
import { encoderOutputs } from '../support/onnx-baked.js'
import {
  DECODER_LAYERS,
  decoderOnnx,
  ENCODER_LAYERS,
  encoderOnnx,
  tinyDecoder,
  tinyEncoder,
  type TinyLayer,
} from '../support/onnx-models.js'
import { decoderFiles, generatedText, wordsAfter } from '../support/onnx-words.js'

const programs = programsOf('docs/serving.md').filter(({ source }) => requiredBy(source) === 'onnx')
const programWith = (library: string) => programs.find(({ source }) => source.includes(`'${library}'`))!.source

const shapeOf = ({ name, inFeatures, outFeatures }: TinyLayer) => ({ name, inFeatures, outFeatures })

let folder: string
beforeAll(() => {
  const libraries = join(interopProject(), 'node_modules')
  folder = mkdtempSync(join(packageRoot, 'build', 'onnx-guide-'))
  for (const [name, target] of [
    ['lily-kernels', packageRoot],
    ['onnxruntime-node', join(libraries, 'onnxruntime-node')],
    ['@huggingface/transformers', join(libraries, '@huggingface/transformers')],
  ]) {
    const link = join(folder, 'node_modules', name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(target, link)
  }
}, 600_000)
afterAll(() => rmSync(folder, { recursive: true }))

function write(name: string, content: string | Uint8Array): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true })
  writeFileSync(join(folder, name), content)
}

/** Runs a program. Returns the lines that it prints, and its errors. */
function run(source: string): { lines: string[]; stderr: string } {
  write('program.mjs', source)
  const { stdout, stderr } = spawnSync(process.execPath, ['program.mjs'], { cwd: folder, encoding: 'utf8' })
  return { lines: stdout.trimEnd().split('\n'), stderr }
}

it('onnxruntime-node: two adapters in turn, and the base model', async () => {
  const targetModules = ['query', 'value', 'output.dense']
  const [french, polite] = [4, 7].map((r, i) => {
    const config = { r, numB: 3 - i, strideA: 2, scaling: 2, targetModules, initWeights: false }
    return LilyModel.create({ layers: ENCODER_LAYERS.map(shapeOf), config, seed: i + 1 })
  })
  await french.savePretrained(join(folder, 'french'))
  await polite.savePretrained(join(folder, 'polite'))
  write('model.onnx', encoderOnnx(tinyEncoder()))

  const { lines, stderr } = run(programWith('onnxruntime-node'))
  const printed = lines.map((line) => line.split(' ').map(Number))
  const inputs = { shape: [1, 4], ids: [3, 1, 4, 1], flags: [1, 1, 1, 1] } as const
  const outputs = await Promise.all([french, polite, null].map((adapter) => encoderOutputs(inputs, adapter)))
  const expected = outputs.map(({ logits }) => logits)
  expect(printed, stderr).toHaveLength(3)
  for (const [i, logits] of expected.entries()) expect(relativeError(printed[i], logits)).toBeLessThan(1e-5)
  expect(relativeError(printed[0], expected[1])).toBeGreaterThan(1e-2)
  expect(relativeError(printed[0], expected[2])).toBeGreaterThan(1e-2)
})

it('Transformers.js: text of an adapter and of the base model', async () => {
  const config = { r: 4, numB: 3, scaling: 8, routing: 'token', targetModules: ['q_proj', 'down_proj'] } as const
  const adapter = LilyModel.create({
    layers: DECODER_LAYERS.map(shapeOf),
    config: { ...config, initWeights: false },
    seed: 1,
  })
  await adapter.savePretrained(join(folder, 'french'))
  const words = wordsAfter(['once', 'upon', 'a', 'time'])
  write('models/base/onnx/model.onnx', decoderOnnx(tinyDecoder()))
  for (const [name, content] of Object.entries(decoderFiles(words))) write(`models/base/${name}`, content)

  const expected = await Promise.all([adapter, null].map((model) => generatedText(words, model)))
  const program = programWith('@huggingface/transformers')
  const { lines, stderr } = run(program)
  expect(lines, stderr).toEqual(expected)
  expect(new Set(expected).size).toBe(2)
  // Why the guide replaces `forward`.
  expect(run(program.replace(/^model\.forward = .*$/m, '')).stderr).toContain('Missing the following inputs')
})
