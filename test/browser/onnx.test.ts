/**
 * Adapters in ONNX models that ONNX Runtime Web runs in headless Chromium, on WebAssembly and on the software adapter of
 * WebGPU: the logits are those of the models computed with this package in Node.js.
 */
import { join } from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import { programsOf } from '../support/guides.js'
import { onnxRuntimeWeb } from '../support/interop.js'
import {
  adaptersOf,
  CALLS,
  DECODER_TARGETS,
  distance,
  ENCODER_TARGETS,
  FLOAT32,
  KINDS,
  TEXTS,
} from '../support/onnx-adapters.js'
import { computeEncoder, ComputedDecoder } from '../support/onnx-compute.js'
import { DECODER_LAYERS, ENCODER_LAYERS, encoderOnnx, tinyDecoder, tinyEncoder } from '../support/onnx-models.js'
import { type Injection, TURNS } from '../support/onnx-page.js'
import { ISOLATED, pagesMissing, Site, type Visit, WEBGPU } from '../support/site.js'

/** The compiler of the software adapter takes seconds, and longer beside other tests. */
const SLOW = 300_000

/** Global functions of the page. */
declare const runEncoders: (provider: string, injection: Injection) => Promise<number[][]>
declare const runDecoder: (provider: string, injection: Injection) => Promise<number[][]>
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
<script type="module">globalThis.program = () => import('./guide.js')</script>`

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

/** @param base the logits of the base model; those of the first call are with an adapter */
function expectLogits(logits: readonly number[][], expected: readonly Float32Array[], base: Float32Array): void {
  expect(logits).toHaveLength(expected.length)
  const differences = expected.map((each, call) => distance(logits[call], each))
  expect(Math.max(...differences), differences.join(' ')).toBeLessThanOrEqual(FLOAT32)
  expect(distance(expected[0], base)).toBeGreaterThan(1000 * FLOAT32)
}

const missing = pagesMissing()
if (missing !== undefined) test('ONNX Runtime Web', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('ONNX Runtime Web', () => {
  let site: Site
  let address: string
  beforeAll(async () => {
    const { source } = programsOf('docs/serving.md').find((program) => program.source.includes('onnxruntime-web'))!
    const files = {
      'index.html': PAGE,
      'onnx-page.js': await bundled(),
      'guide.html': GUIDE,
      'guide.js': source,
      'public/model.onnx': encoderOnnx(tinyEncoder()),
    }
    site = new Site(files, { 'onnxruntime-web': onnxRuntimeWeb() })
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
        const logits = await visit.page.evaluate(([name, injection]) => runEncoders(name, injection), [
          provider,
          { kind, targets, masks },
        ] as const)
        const adapters = adaptersOf(KINDS[kind], ENCODER_LAYERS, targets)
        const expected = TURNS.map((name) => computeEncoder(tinyEncoder(), TEXTS, adapters[name], masks).logits)
        expectLogits(logits, expected, computeEncoder(tinyEncoder(), TEXTS, null).logits)
      },
      SLOW,
    )

    test.each(Object.keys(KINDS))(
      'a decoder with a key-value cache: %s',
      async (kind) => {
        const targets = kind === 'Lily, sequence' ? DECODER_TARGETS : [...DECODER_TARGETS, 'down_proj']
        const logits = await visit.page.evaluate(([name, injection]) => runDecoder(name, injection), [
          provider,
          { kind, targets },
        ] as const)
        const adapters = adaptersOf(KINDS[kind], DECODER_LAYERS, targets)
        const computed = new ComputedDecoder(tinyDecoder(), 2)
        const expected = CALLS.map(([ids, name]) => computed.call(ids, adapters[name]))
        expectLogits(logits, expected, new ComputedDecoder(tinyDecoder(), 2).call(CALLS[0][0], null))
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
      await visit.page.evaluate('program()')

      expect(visit.errors).toEqual([])
      const text = { shape: [1, 4], ids: [3, 1, 4, 0], flags: [1, 1, 1, 0] } as const
      const [expected, base, unmasked] = [
        computeEncoder(tinyEncoder(), text, adapter, true).logits,
        computeEncoder(tinyEncoder(), text, null).logits,
        computeEncoder(tinyEncoder(), text, adapter).logits,
      ]
      const printed = visit.printed.map((line) => line.split(' ').map(Number))
      expect(printed).toHaveLength(1)
      expect(distance(printed[0], expected)).toBeLessThanOrEqual(FLOAT32)
      for (const other of [base, unmasked]) expect(distance(other, expected)).toBeGreaterThan(1000 * FLOAT32)
    },
    SLOW,
  )
})
