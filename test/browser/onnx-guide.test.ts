/** The program of docs/serving.md for a page with ONNX Runtime Web, on the tiny encoder. */
import { join } from 'node:path'
import { LilyModel } from 'lily-kernels'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { relativeError } from '../support/compare.js'
import { programsOf } from '../support/guides.js'
import { installOnce } from '../support/npm-install.js'
import { computeEncoder } from '../support/onnx-compute.js'
import { ENCODER_LAYERS, encoderOnnx, tinyEncoder } from '../support/onnx-models.js'
import { ISOLATED, pagesMissing, Site } from '../support/site.js'

const PAGE = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><input type="file" multiple>
<script type="module">globalThis.program = () => import('./program.js')</script>`

const missing = pagesMissing()
if (missing !== undefined) test('docs/serving.md', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('docs/serving.md', () => {
  let site: Site
  beforeAll(async () => {
    const { source } = programsOf('docs/serving.md').find((program) => program.source.includes('onnxruntime-web'))!
    const files = { 'index.html': PAGE, 'program.js': source, 'public/model.onnx': encoderOnnx(tinyEncoder()) }
    const modules = join(installOnce('onnx-web', ['onnxruntime-web@1.30.0']), 'node_modules')
    site = new Site(files, { 'onnxruntime-web': join(modules, 'onnxruntime-web') })
    await site.build()
  }, 600_000)
  afterAll(() => site?.remove())

  test('the program for a page, with the adapter that its visitor picks', async () => {
    const layers = ENCODER_LAYERS.map(({ name, inFeatures, outFeatures }) => ({ name, inFeatures, outFeatures }))
    const targetModules = ['query', 'value', 'intermediate.dense']
    const config = { r: 4, numB: 3, scaling: 2, routing: 'sequence', targetModules, initWeights: false } as const
    const adapter = LilyModel.create({ layers, config, seed: 1 })
    const visit = await site.open(await site.serve(ISOLATED))
    const files = (await adapter.pretrainedFiles()).map(async (file) => {
      return { name: file.name, mimeType: '', buffer: Buffer.from(await file.arrayBuffer()) }
    })
    await visit.page.setInputFiles('input', await Promise.all(files))
    await visit.page.evaluate('program()')

    expect(visit.errors).toEqual([])
    const inputs = { shape: [1, 4], ids: [3, 1, 4, 0], flags: [1, 1, 1, 0] } as const
    const expected = computeEncoder(tinyEncoder(), inputs, adapter, true).logits
    const printed = visit.printed.map((line) => line.split(' ').map(Number))
    expect(printed).toHaveLength(1)
    expect(relativeError(printed[0], expected)).toBeLessThan(1e-5)
    for (const [model, masks] of [[null, true] as const, [adapter, false] as const]) {
      expect(relativeError(computeEncoder(tinyEncoder(), inputs, model, masks).logits, expected)).toBeGreaterThan(1e-3)
    }
  }, 120_000)
})
