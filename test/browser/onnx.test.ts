/**
 * Adapters in ONNX models that ONNX Runtime Web runs in headless Chromium, on WebAssembly and on the software adapter of
 * WebGPU: the logits are those of onnxruntime-node, for which test/interop has the float64 reference.
 */
import { basename, join } from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { programsOf } from '../support/guides.js'
import { interopProject, onnxRuntimeWeb } from '../support/interop.js'
import { adaptersOf, DECODER_TARGETS, distance, ENCODER_TARGETS, FLOAT32, KINDS } from '../support/onnx-adapters.js'
import { encoderOutputs, ortOfNode } from '../support/onnx-baked.js'
import {
  DECODER_LAYERS,
  decoderOnnx,
  ENCODER_LAYERS,
  encoderOnnx,
  tinyDecoder,
  tinyEncoder,
} from '../support/onnx-models.js'
import * as inNode from '../support/onnx-page.js'
import { decoderFiles, generatedText, wordsAfter } from '../support/onnx-words.js'
import { ISOLATED, pagesMissing, Site, type Visit, WEBGPU } from '../support/site.js'

/** The compiler of the software adapter takes seconds, and longer beside other tests. */
const SLOW = 300_000

const TRANSFORMERS = '@huggingface/transformers'
const LIBRARIES = () => join(interopProject(), 'node_modules')

const WORDS = wordsAfter(['once', 'upon', 'a', 'time'])
const french = adaptersOf(KINDS['Lily, token'], DECODER_LAYERS, DECODER_TARGETS).first

/** Global functions of the page. */
declare const runEncoders: (provider: string, injection: inNode.Injection) => Promise<number[][]>
declare const runDecoder: (provider: string, injection: inNode.Injection) => Promise<number[][]>
/** How many kernels the GPU has run. */
declare const dispatches: () => number

const PAGE = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">
import * as ort from 'onnxruntime-web/webgpu'
import { runDecoder, runEncoders } from './onnx-page.js'

let count = 0
const { dispatchWorkgroups } = GPUComputePassEncoder.prototype
GPUComputePassEncoder.prototype.dispatchWorkgroups = function (...sizes) {
  count++
  return dispatchWorkgroups.apply(this, sizes)
}
Object.assign(globalThis, {
  runEncoders: (provider, injection) => runEncoders(ort, provider, injection),
  runDecoder: (provider, injection) => runDecoder(ort, provider, injection),
  dispatches: () => count,
})
</script>`

const GUIDE = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><input type="file" multiple>
<script type="module" src="./guide.js"></script>`

const TEXT =
  '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module" src="./text.js"></script>'

/** The program of docs/serving.md with Transformers.js, with what the guide changes in a page. */
function textProgram(): string {
  const [program, ofPages] = programsOf('docs/serving.md').filter(({ source }) => source.includes('huggingface'))
  const end = program.source.slice(program.source.indexOf('const generator')).replace(/ *model_file_name.*\n/, '')
  const names = ['adapter_config.json', 'adapter_model.safetensors']
  return `import { pipeline, Tensor } from '@huggingface/transformers'
    import { LilyModel } from 'lily-kernels'
    ${ofPages.source.replace(
      'const source',
      `
      const files = ${JSON.stringify(names)}.map(async (name) => new File([await (await fetch('french/' + name)).blob()], name))
      const adapter = await LilyModel.fromPretrained(await Promise.all(files))
      const source`,
    )}
    Object.assign(env, { localModelPath: 'models/', allowLocalModels: true, allowRemoteModels: false })
    ${end}`
}

/** test/support/onnx-page.ts with what it imports, but for the package. */
async function bundled(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [join(packageRoot, 'test', 'support', 'onnx-page.ts')],
    bundle: true,
    format: 'esm',
    target: 'es2022',
    write: false,
    plugins: [
      {
        name: 'the package by its name',
        setup(bundle) {
          bundle.onResolve({ filter: /\/lib\/index\.js$/ }, () => ({ path: 'lily-kernels', external: true }))
          bundle.onResolve({ filter: /\/lib\/onnx\/index\.js$/ }, () => ({ path: 'lily-kernels/onnx', external: true }))
        },
      },
    ],
  })
  return outputFiles[0].text
}

function expectLogits(logits: readonly number[][], expected: readonly number[][]): void {
  expect(logits).toHaveLength(expected.length)
  const differences = expected.map((each, call) => distance(logits[call], each))
  expect(Math.max(...differences), differences.join(' ')).toBeLessThanOrEqual(FLOAT32)
}

/** Waits for lines that a page prints. */
async function printed({ printed, errors }: Visit, lines: number): Promise<void> {
  await expect.poll(() => [...printed, ...errors].length, { timeout: SLOW }).toBeGreaterThanOrEqual(lines)
  expect(errors).toEqual([])
  expect(printed).toHaveLength(lines)
}

const missing = pagesMissing()
if (missing !== undefined) test('ONNX Runtime Web', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('ONNX Runtime Web', () => {
  let site: Site
  let address: string
  beforeAll(async () => {
    const { source } = programsOf('docs/serving.md').find((program) => program.source.includes('onnxruntime-web'))!
    const files: Record<string, string | Uint8Array> = {
      'index.html': PAGE,
      'onnx-page.js': await bundled(),
      'guide.html': GUIDE,
      'guide.js': source,
      'public/model.onnx': encoderOnnx(tinyEncoder()),
      'text.html': TEXT,
      'text.js': textProgram(),
      'public/models/base/onnx/model.onnx': decoderOnnx(tinyDecoder()),
    }
    for (const [name, content] of Object.entries(decoderFiles(WORDS))) files[`public/models/base/${name}`] = content
    for (const file of await french.pretrainedFiles())
      files[`public/french/${file.name}`] = new Uint8Array(await file.arrayBuffer())
    site = new Site(files, { 'onnxruntime-web': onnxRuntimeWeb(), [TRANSFORMERS]: join(LIBRARIES(), TRANSFORMERS) })
    await site.build()
    address = await site.serve(ISOLATED)
  }, SLOW)
  afterAll(() => site?.remove())

  describe.each(['wasm', 'webgpu'])('on %s', (provider) => {
    let visit: Visit
    beforeAll(async () => {
      visit = await site.open(address, { args: WEBGPU })
    })

    test.each(Object.keys(KINDS))(
      'an encoder: %s',
      async (kind) => {
        const masks = kind === 'Lily, sequence'
        const targets = masks ? ENCODER_TARGETS : [...ENCODER_TARGETS, 'classifier']
        const injection = { kind, targets, masks }
        const logits = await visit.page.evaluate((given) => runEncoders(...given), [provider, injection] as const)
        expectLogits(logits, await inNode.runEncoders(ortOfNode(), 'cpu', injection))
      },
      SLOW,
    )

    test.each(Object.keys(KINDS))(
      'a decoder with a key-value cache: %s',
      async (kind) => {
        const targets = kind === 'Lily, sequence' ? DECODER_TARGETS : [...DECODER_TARGETS, 'down_proj']
        const injection = { kind, targets }
        const logits = await visit.page.evaluate((given) => runDecoder(...given), [provider, injection] as const)
        expectLogits(logits, await inNode.runDecoder(ortOfNode(), 'cpu', injection))
      },
      SLOW,
    )

    test('kernels ran where they should, and files came from the site', async () => {
      const count = await visit.page.evaluate(() => dispatches())
      if (provider === 'webgpu') expect(count).toBeGreaterThan(100)
      else expect(count).toBe(0)
      expect(visit.errors).toEqual([])
      expect(visit.requests.filter((url) => url.endsWith('.wasm'))).toHaveLength(1)
      expect(visit.requests.filter((url) => !url.startsWith(address) && !url.startsWith('data:'))).toEqual([])
    })
  })

  test(
    'the program of docs/serving.md, with the adapter that its visitor picks',
    async () => {
      const visit = await site.open(`${address}guide.html`)
      const adapter = adaptersOf(KINDS['Lily, sequence'], ENCODER_LAYERS, ENCODER_TARGETS).first
      const files = (await adapter.pretrainedFiles()).map(async (file) => {
        return { name: file.name, mimeType: '', buffer: Buffer.from(await file.arrayBuffer()) }
      })
      await visit.page.setInputFiles('input', await Promise.all(files))
      await printed(visit, 1)
      const text = { shape: [1, 4], ids: [3, 1, 4, 0], flags: [1, 1, 1, 0] } as const
      const [{ logits }, base, unmasked] = [
        await encoderOutputs(text, adapter, { mask: 'attention_mask' }),
        await encoderOutputs(text, null),
        await encoderOutputs(text, adapter),
      ]
      expect(distance(visit.printed[0].split(' ').map(Number), logits)).toBeLessThanOrEqual(FLOAT32)
      for (const other of [base, unmasked]) expect(distance(other.logits, logits)).toBeGreaterThan(1000 * FLOAT32)
    },
    SLOW,
  )

  test(
    'the program of docs/serving.md with Transformers.js, which fetches the injected bytes',
    async () => {
      const visit = await site.open(address)
      // The page of Transformers.js fetches ONNX Runtime Web from there.
      await visit.page.route('https://cdn.jsdelivr.net/npm/onnxruntime-web@*/dist/*', async (route) => {
        const path = join(LIBRARIES(), 'onnxruntime-web', 'dist', basename(new URL(route.request().url()).pathname))
        await route.fulfill({ path, headers: { 'Access-Control-Allow-Origin': '*' } })
      })
      await visit.page.goto(`${address}text.html`)
      await printed(visit, 1)
      const expected = await Promise.all([french, null].map((model) => generatedText(WORDS, model)))
      expect(visit.printed[0].split('\n')).toEqual(expected)
      expect(new Set(expected).size).toBe(2)
    },
    SLOW,
  )
})
