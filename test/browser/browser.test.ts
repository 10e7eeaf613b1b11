/** The package in pages that vite builds, in headless Chromium. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packageRoot } from '../../lib/binding/root.js'
import type * as package_ from '../../lib/index.js'
import { CONFIG, GOLDEN, TENSORS } from '../support/checkpoint.js'
import { consumer, expected } from '../support/consumer.js'
import { programsOf } from '../support/guides.js'
import { bundleSuites, expectAllPassed } from '../support/portable/bundle.js'
import type { Outcome } from '../support/portable/run.js'
import { pagesMissing, ISOLATED, Site, type Visit } from '../support/site.js'

const POLL = { timeout: 30_000 }

const [training] = programsOf('docs/model.md')
const [tfjs] = programsOf('README.md')

/** Globals of tests.html. */
declare const lily: typeof package_
declare const outcomes: () => Promise<Outcome[]>
declare const document: { querySelector(name: 'input'): { readonly files: Iterable<File> } }

/** The icon spares a request. */
const page = (script: string) =>
  `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><input type="file" multiple><script type="module">${script}</script>`
const TESTS = `
import * as lily from 'lily-kernels'
import { outcomes } from './suites.js'
Object.assign(globalThis, { lily, outcomes })`

/** A page may run the module, but start no workers. */
const WITHOUT_WORKERS = { 'Content-Security-Policy': "script-src 'self' 'wasm-unsafe-eval'; worker-src 'none'" }

const missing = pagesMissing()
if (missing !== undefined) test('in Chromium', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('in Chromium', () => {
  let site: Site
  beforeAll(async () => {
    site = new Site({
      'training.html': page(training.source),
      'tfjs.html': page(tfjs.source),
      'tests.html': page(TESTS),
      'suites.js': await bundleSuites(),
      'worker.html': page("new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })"),
      'worker.js': consumer('ESM'),
    })
    await site.build()
  })
  afterAll(() => site?.remove())

  describe('the programs of the documents', () => {
    const expectPrinted = async (visit: Visit, { output } = training) => {
      await expect.poll(() => visit.printed.length, POLL).toBe(output.split('\n').length - 1)
      expect(`${visit.printed.join('\n')}\n`).toBe(output)
      expect(visit.errors).toEqual([])
      expect(visit.requests.filter((url) => !/\.(html|m?js)(\?.*)?$|\/@vite\/|^data:/.test(url))).toEqual([])
    }

    test('built by vite', async () => {
      await expectPrinted(await site.open(`${await site.serve({})}training.html`))
    })

    test('with TensorFlow.js, built by vite', async () => {
      await expectPrinted(await site.open(`${await site.serve({})}tfjs.html`), tfjs)
    })

    // Alone: beside other pages it would share files with them, and with these what only they use.
    test('have the size that docs/platforms.md states', async () => {
      const alone = new Site({ 'training.html': page(training.source) })
      try {
        await alone.build()
        const visit = await alone.open(`${await alone.serve({})}training.html`)
        await expectPrinted(visit)
        const files = await Promise.all(visit.requests.map(async (url) => (await fetch(url)).arrayBuffer()))
        const sizes = [files, files.map((file) => gzipSync(file, { level: 9 }))].map((each) =>
          each.reduce((sum, { byteLength }) => sum + byteLength / 1000, 0),
        )
        const text = readFileSync(join(packageRoot, 'docs/platforms.md'), 'utf8')
        const stated = /has about (\d+) KB in all, and (\d+) KB compressed/.exec(text)!.slice(1).map(Number)
        // Compilers differ a little.
        sizes.forEach((size, i) => {
          expect(Math.abs(size / stated[i] - 1), `${size} KB, stated ${stated[i]} KB`).toBeLessThan(0.02)
        })
      } finally {
        await alone.remove()
      }
    })

    test("on vite's development server, which bundles the package", async () => {
      const visit = await site.open(`${await site.develop()}training.html`)
      await expectPrinted(visit)
      expect(visit.requests.filter((url) => url.includes('/.vite/deps/lily-kernels.js'))).not.toEqual([])
    })
  })

  describe.each([
    ['a page that is cross-origin isolated', ISOLATED, true],
    ['a page that is not', {}, false],
  ])('%s', (_, headers, isIsolated) => {
    let address: string
    let visit: Visit
    beforeAll(async () => {
      address = await site.serve(headers)
      visit = await site.open(`${address}tests.html`)
    })

    test('runs on WebAssembly', async () => {
      const { backends, processors, isolated } = await visit.page.evaluate(() => ({
        backends: lily.backends(),
        processors: navigator.hardwareConcurrency!,
        isolated: crossOriginIsolated,
      }))
      expect(isolated).toBe(isIsolated)
      const [{ available, reason, devices }, cuda] = backends
      expect({ available, reason }).toEqual({
        available: true,
        reason: 'a browser has no native addon; running on WebAssembly with relaxed SIMD',
      })
      expect(devices).toEqual([
        { id: 0, name: 'WebAssembly', simd: 'wasm-relaxed', threads: isIsolated ? processors : 1 },
      ])
      expect(cuda).toMatchObject({
        available: false,
        reason: expect.stringContaining('requires the native addon') as string,
      })
    })

    test('passes the golden cases and the modes', async () => {
      expectAllPassed(await visit.page.evaluate(() => outcomes()))
    })

    test('the Async forms run in a worker, with the same results', async () => {
      const { isSame, isShared, threads } = await visit.page.evaluate(runBoth)
      expect({ isSame, isShared }).toEqual({ isSame: true, isShared: isIsolated })
      // That of the Async forms, and those of the pool, of which the page itself is one.
      expect(visit.page.workers()).toHaveLength(threads)
    })

    test('reads an adapter from the files that a user picks, and saves it as files', async () => {
      await visit.page.setInputFiles('input', [join(GOLDEN, CONFIG), join(GOLDEN, TENSORS)])
      const saved = await visit.page.evaluate(saveAgain)
      expect(saved.names).toEqual([CONFIG, TENSORS])
      expect(Buffer.from(saved.tensors).equals(readFileSync(join(GOLDEN, TENSORS)))).toBe(true)
      expect(saved.again).toEqual(saved.tensors)
      expect(saved.refused).toContain('there is no file system here')
    })

    test('runs in a worker of the page', async () => {
      const { printed, errors } = await site.open(`${address}worker.html`)
      await expect.poll(() => printed.length, POLL).toBe(1)
      expect(JSON.parse(printed[0])).toEqual(expected)
      expect(errors).toEqual([])
    })

    test('has no errors', () => {
      expect(visit.errors).toEqual([])
    })
  })

  test('has the same bits on one thread and on several', async () => {
    const [isolated, other] = await Promise.all(
      [ISOLATED, {}].map(async (headers) => {
        const { page } = await site.open(`${await site.serve(headers)}tests.html`)
        return (await page.evaluate(runBoth)).bits
      }),
    )
    expect(isolated).toMatch(/^[0-9a-f]{64}$/)
    expect(isolated).toEqual(other)
  })

  test.each([
    ['cross-origin isolated', { ...WITHOUT_WORKERS, ...ISOLATED }],
    ['not isolated', WITHOUT_WORKERS],
  ])('a page that may start no workers computes on its own thread, %s', async (_, headers) => {
    const { page, errors } = await site.open(`${await site.serve(headers)}tests.html`)
    expect((await page.evaluate(runBoth)).isSame).toBe(true)
    expect(page.workers()).toEqual([])
    expect(errors).toEqual([])
  })

  test('a page that may not run WebAssembly is told why', async () => {
    const headers = { 'Content-Security-Policy': "script-src 'self'" }
    const { errors } = await site.open(`${await site.serve(headers)}tests.html`)
    expect(errors).toHaveLength(1)
    expect(errors[0]).toMatch(
      /WebAssembly does not load \(.*\); a Content-Security-Policy must allow 'wasm-unsafe-eval'/,
    )
  })
})

/** Runs in the page: forward and backward of a problem that is worth several threads, by the plain and the Async forms. */
async function runBoth() {
  const { lilyBackward, lilyBackwardAsync, lilyForward, lilyForwardAsync, tensor } = lily
  const [tokens, d, r, experts] = [700, 96, 8, 3]
  const values = (...shape: number[]) => {
    const data = Float32Array.from(
      { length: shape.reduce((a, b) => a * b) },
      (_, i) => ((i * i * 7919) % 211) / 105 - 1,
    )
    return tensor(data, shape)
  }
  const operands = { x: values(tokens, d), a: values(r, d), router: values(experts, r), b: values(experts, r, d) }
  const dy = values(tokens, d)
  /** The SHA-256 of all results. */
  const digest = async (y: package_.Tensor, gradients: object) => {
    const results = [y, ...(Object.values(gradients) as package_.Tensor[])]
    const bytes = await new Blob(results.map(({ data }) => Float32Array.from(data as Float32Array))).arrayBuffer()
    return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)))
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('')
  }

  const plain = lilyForward(operands)
  const bits = await digest(plain.y, lilyBackward({ dy }, plain.saved))
  // Two at once: they wait for each other.
  const runs = await Promise.all(
    [1, 2].map(async () => {
      const { y, saved } = await lilyForwardAsync(operands)
      return digest(y, await lilyBackwardAsync({ dy }, saved))
    }),
  )
  return {
    bits,
    isSame: runs.every((run) => run === bits),
    isShared: typeof SharedArrayBuffer === 'function' && plain.y.data.buffer instanceof SharedArrayBuffer,
    threads: lily.backends()[0].devices[0].threads!,
  }
}

/** Runs in the page: reads the adapter in the files of its input, saves it, and reads and saves that. */
async function saveAgain() {
  const { AdapterModel, LilyModel } = lily
  const { files } = document.querySelector('input')
  const model = await LilyModel.fromPretrained(files)
  const saved = await model.pretrainedFiles()
  const bytes = async (list: readonly File[]) => {
    const tensors = list.find(({ name }) => name.endsWith('.safetensors'))!
    return [...new Uint8Array(await tensors.arrayBuffer())]
  }
  const buffers = Object.fromEntries(
    await Promise.all(saved.map(async (file) => [file.name, await file.arrayBuffer()] as const)),
  )
  return {
    names: saved.map(({ name }) => name).sort(),
    tensors: await bytes(saved),
    again: await bytes(await (await AdapterModel.fromPretrained(buffers)).pretrainedFiles()),
    refused: await LilyModel.fromPretrained('adapter').then(() => 'nothing', String),
  }
}
