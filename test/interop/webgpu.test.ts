/**
 * The programs of docs/interop.md in which libraries share a GPUDevice, in headless Chromium on its software adapter.
 *
 * @long
 */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { programsOf } from '../support/guides.js'
import { interopProject } from '../support/interop.js'
import { embedding, matrixProduct } from '../support/onnx.js'
import { chromiumProgram, Site, WEBGPU } from '../support/site.js'

/** The compiler of the software adapter takes seconds, and longer beside other tests. */
const SLOW = 300_000

const page = (script: string) =>
  `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">${script}</script>`

const programs = programsOf('docs/interop.md').filter(({ source }) => source.includes('createLily'))

const missing = chromiumProgram === undefined ? 'there is no chromium (Debian: apt install chromium)' : undefined
if (missing !== undefined) test('libraries on WebGPU', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('libraries on WebGPU', () => {
  let site: Site
  let modules: string
  let address: string
  beforeAll(async () => {
    modules = join(interopProject(), 'node_modules')
    const names = ['onnxruntime-web', '@huggingface/transformers', '@jax-js/jax']
    const pages = programs.map(({ source }, i) => [`${i}.html`, page(source)] as const)
    site = new Site(
      {
        ...Object.fromEntries(pages),
        'public/first.onnx': matrixProduct(Float32Array.of(1, 0, 0, 2, 1, 1), 3, 2),
        'public/next.onnx': matrixProduct(Float32Array.of(1, 1), 2, 1),
        'public/models/encoder/config.json': '{ "model_type": "bert" }',
        'public/models/encoder/onnx/model.onnx': embedding(Float32Array.of(1, 2, 3, 4, 5, 6), 3, 2),
      },
      Object.fromEntries(names.map((name) => [name, join(modules, name)])),
    )
    await site.build()
    address = await site.serve({})
  }, 600_000)
  afterAll(() => site?.remove())

  test.each(programs.map(({ source, output }, i) => ({ name: source.split('\n')[0], i, output })))(
    '$name',
    async ({ i, output }) => {
      const { page, printed, errors } = await site.open('about:blank', { args: WEBGPU })
      // Transformers.js takes ONNX Runtime from a server by default.
      await page.route('https://cdn.jsdelivr.net/**', (route) =>
        route.fulfill({
          headers: { 'Access-Control-Allow-Origin': '*' },
          contentType: route.request().url().endsWith('.wasm') ? 'application/wasm' : 'text/javascript',
          body: readFileSync(join(modules, 'onnxruntime-web', 'dist', basename(route.request().url()))),
        }),
      )
      await page.goto(`${address}${i}.html`)
      const lines = output.split('\n').length - 1
      await expect.poll(() => printed.length >= lines || errors.length > 0, { timeout: SLOW }).toBe(true)
      expect(errors).toEqual([])
      expect(`${printed.join('\n')}\n`).toBe(output)
    },
    SLOW,
  )
})
