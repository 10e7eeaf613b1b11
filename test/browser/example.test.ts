/** examples/browser, built by vite, in headless Chromium: with the software adapter of WebGPU, and on WebAssembly. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { accountFor, analyse, LilyModel, LoraModel } from 'lily-kernels'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { randomInputs } from '../../examples/browser/src/inspect/random-inputs.js'
import { madeUpInputs } from '../../examples/browser/src/run/inputs.js'
import { packageRoot } from '../../lib/binding/root.js'
import { CONFIG, GOLDEN, newFolder, TENSORS } from '../support/checkpoint.js'
import { programsOf } from '../support/guides.js'
import { onnxRuntimeWeb } from '../support/interop.js'
import { adaptersOf, KINDS } from '../support/onnx-adapters.js'
import { encoderOutputs } from '../support/onnx-baked.js'
import { ENCODER_LAYERS, encoderOnnx, tinyEncoder } from '../support/onnx-models.js'
import { problemsOf } from '../support/page-problems.js'
import { pagesMissing, type Opening, Site, type Visit, WEBGPU } from '../support/site.js'

const LORA = join(packageRoot, 'test', 'fixtures', 'lora', 'plain')

/** A task of the page ends within this time, also where pipelines compile on a software adapter beside other tests. */
const TASK = { timeout: 120_000 }
const SLOW = 180_000

const missing = pagesMissing()
if (missing !== undefined) test('examples/browser', (context) => context.skip(missing))

/** Globals of the page. */
declare const devices: GPUDevice[]

describe.skipIf(missing !== undefined)('examples/browser', () => {
  let site: Site
  let address: string
  const visits: Visit[] = []

  beforeAll(async () => {
    site = new Site(join(packageRoot, 'examples', 'browser'), { 'onnxruntime-web': onnxRuntimeWeb() })
    await site.build()
    address = await site.serve({})
  }, SLOW)
  afterAll(() => site?.remove())

  /** Opens the page, and waits until it has looked for a GPU. */
  async function open(options: Opening = {}): Promise<Page> {
    const visit = await site.open(address, {
      viewport: { width: 1280, height: 900 },
      reducedMotion: 'reduce',
      ...options,
    })
    visits.push(visit)
    const { page } = visit
    page.on('console', (message) => {
      if (message.type() === 'error') visit.errors.push(message.text())
    })
    await page.locator('#backend-wasm').waitFor()
    await page.getByText('looking for a GPU').waitFor({ state: 'detached', ...TASK })
    return page
  }

  describe('on WebAssembly', () => {
    let page: Page
    beforeAll(async () => {
      page = await open()
    }, SLOW)

    test('says why, and with how many threads', async () => {
      const text = await page.locator('#backend').innerText()
      expect(text).toContain('Everything runs on WebAssembly.')
      expect(text).toContain('it found no GPU that it may use')
      expect(text).toMatch(/WebAssembly on the processor, \d+ threads/)
      expect(await page.locator('#backend-webgpu').isDisabled()).toBe(true)
      expect(await page.locator('#backend-wasm').isChecked()).toBe(true)
    })

    test(
      'inspects a folder of Lily: the numbers are those of the package in Node.js',
      async () => {
        await page.setInputFiles('#inspect-folder', GOLDEN)
        await page.locator('#inspect h3', { hasText: 'A Lily adapter' }).waitFor(TASK)
        const model = await LilyModel.fromPretrained(GOLDEN)
        const layers = Array.from(model.layers.values(), ({ name, shape }) => ({ name, inFeatures: shape.inFeatures }))
        const { targets } = await analyse(model, { samples: randomInputs(layers) })

        const tables = page.locator('#inspect table')
        for (const [t, { layers, loraRank, experts, parameters: _ }] of targets.entries()) {
          const rows = await rowsOf(tables.nth(t))
          expect(rows).toHaveLength(layers.length)
          layers.forEach(({ router, update }, l) => {
            const [, entropy, ofToken, norm, rank, share] = rows[l].map((cell) => parseFloat(cell))
            expect(entropy / 100).toBeCloseTo(router.entropy!, 1)
            expect(Math.abs(ofToken - 100 * router.tokenEntropy!)).toBeLessThanOrEqual(0.501)
            expect(Math.abs(norm / update.norm - 1)).toBeLessThanOrEqual(0.00501)
            expect(Math.abs(rank - update.effectiveRank)).toBeLessThanOrEqual(0.0501)
            expect(Math.abs(share - 100 * update.sharedWithLora)).toBeLessThanOrEqual(0.501)
          })
          const cells = async (chart: string) =>
            (
              await page
                .locator(`#inspect svg[aria-label^="${chart}"]`)
                .nth(t)
                .locator('g > rect title')
                .allTextContents()
            ).map((title) => Number(title.split(': ')[1]))
          expectClose(
            await cells('Mean weight'),
            layers.flatMap(({ router }) => [...router.weights]),
            0.000501,
          )
          expectClose(await cells('Cosine'), experts.cosines.flat(), 0.000501)
          expect(
            await page.locator('#inspect figure', { hasText: `has rank ${loraRank.toFixed(1)}` }).count(),
          ).toBeGreaterThan(0)
        }
        const total = targets.reduce((sum, { parameters }) => sum + parameters, 0)
        expect(await page.locator('#inspect .tile dd').first().innerText()).toBe(total.toLocaleString('en'))
        await page.locator('#inspect summary').click()
        const shapes = await rowsOf(tables.last())
        expect(shapes.map(([name, shape]) => [name, shape])).toEqual(
          Array.from(model.parameters().values(), ({ name, value }) => [name, value.shape.join(' × ')]),
        )
      },
      SLOW,
    )

    test(
      'inspects an adapter whose pattern needs backtracking',
      async () => {
        const layers = [0, 1].map((l) => ({ name: `layers.${l}.q_proj`, inFeatures: 8, outFeatures: 6 }))
        const model = LilyModel.create({ layers, config: { r: 2, numB: 2, targetModules: '.*q_proj' } })
        const contents = (await model.pretrainedFiles()).map(async (file) => {
          const bytes = Buffer.from(await file.arrayBuffer())
          const buffer =
            file.name === CONFIG ? Buffer.from(bytes.toString().replace('.*q_proj', '(?!visual).*q_proj')) : bytes
          return { name: file.name, mimeType: '', buffer }
        })
        await page.setInputFiles('#inspect-files', await Promise.all(contents))
        await page.locator('#inspect h3', { hasText: 'A Lily adapter: 2 layers' }).waitFor(TASK)
        const { parameters, loraRank } = accountFor(layers, model.config)
        const tiles = await page.locator('#inspect .tile dd').allInnerTexts()
        expect([tiles[0], tiles[2]]).toEqual([String(parameters.total), loraRank.toFixed(1)])
      },
      SLOW,
    )

    test(
      'inspects a folder of LoRA that is dropped',
      async () => {
        await drop(page, LORA)
        await page.locator('#inspect h3', { hasText: 'A LoRA adapter' }).waitFor(TASK)
        const { layers } = await analyse(await LoraModel.fromPretrained(LORA))
        const rows = (await Promise.all((await page.locator('#inspect table').all()).slice(0, -1).map(rowsOf))).flat()
        expect(rows).toHaveLength(layers.length)
        const shown = rows.map((cells) => Number(cells.at(-1))).sort()
        expectClose(shown, layers.map(({ update }) => update.effectiveRank).sort(), 0.0501)
      },
      SLOW,
    )

    test(
      'says in plain words what is wrong with a folder',
      async () => {
        await page.setInputFiles('#inspect-files', [join(GOLDEN, CONFIG)])
        const alert = page.locator('#inspect [role=alert]')
        await alert.getByText('These files are no adapter that this page can read.').waitFor(TASK)
        expect(await alert.innerText()).toContain(`expected it among the files, got "${CONFIG}"`)
        await page.setInputFiles('#inspect-files', [join(GOLDEN, CONFIG), join(LORA, TENSORS)])
        await alert.getByText('lily_A').waitFor(TASK)
      },
      SLOW,
    )

    test(
      'has a sample',
      async () => {
        await page.getByRole('button', { name: 'Try a sample' }).click()
        await page.locator('#inspect h3', { hasText: 'A Lily adapter: 12 layers' }).waitFor(TASK)
        const ranks = (await rowsOf(page.locator('#inspect table').first())).map((cells) => Number(cells[4]))
        expect(Math.min(...ranks)).toBeGreaterThan(1)
      },
      SLOW,
    )

    test(
      'benchmarks, with a chart and a table',
      async () => {
        await benchmark(page, '16, 32, 4, 2', 3)
        await page.locator('#benchmark table').waitFor(TASK)
        const rows = await rowsOf(page.locator('#benchmark table'))
        expect(rows.map(([shape]) => shape.replace(/\s+/g, ' '))).toEqual([
          '16, 32, 4, 2 forward',
          '16, 32, 4, 2 forward + backward',
        ])
        for (const cells of rows) for (const cell of cells.slice(1)) expect(parseFloat(cell)).toBeGreaterThan(0)
        // 8 groups of layers with A, 2 experts and 32 routers, against 32 layers with A and B: 4 (8 + 2) 32 + 32 * 8 = 32 * 64 k.
        expect(rows[0][2]).toContain('(r 1)')
        const text = await page.locator('#benchmark').innerText()
        expect(text).toContain('which return when they are complete')
        expect(text).not.toContain('claim nothing')
        expect(await page.locator('#benchmark svg[role=img][aria-label*="of the time of LoRA"]').count()).toBe(1)
      },
      SLOW,
    )

    test('asks for a shape if there is none', async () => {
      await benchmark(page, '16, 32', 3)
      await page.locator('#benchmark [role=alert]').getByText('There is no shape to measure.').waitFor(TASK)
      expect(await page.locator('#shape-own').getAttribute('aria-invalid')).toBe('true')
    })

    test('a benchmark can be cancelled; meanwhile nothing else starts', async () => {
      await benchmark(page, '16, 32, 4, 2', 500)
      const cancel = page.locator('#benchmark').getByRole('button', { name: 'Cancel' })
      await page.locator('#benchmark progress').waitFor()
      for (const name of ['Try a sample', 'Run the benchmark', 'Train']) {
        expect(await page.getByRole('button', { name, exact: true }).isDisabled(), name).toBe(true)
      }
      await cancel.click()
      await page.locator('#benchmark').getByText('Cancelled.').waitFor(TASK)
      expect(await page.getByRole('button', { name: 'Train', exact: true }).isEnabled()).toBe(true)
      expect(await page.locator('#benchmark progress').isVisible()).toBe(false)
    })

    test(
      "trains as the README's program does",
      async () => {
        expect(await train(page, 100)).toEqual(documentedLosses())
        expect(await page.locator('#train svg').getAttribute('aria-label')).toContain('is 0.0001 at step 100')
      },
      SLOW,
    )

    test(
      'runs a sample of an ONNX model, without the adapter and with it',
      async () => {
        const [base, adapted] = await runModel(page)
        expect([base.name, adapted.name]).toEqual(['base model', 'with the adapter'])
        expect(base.difference).toBe(0)
        expect(adapted.difference).toBeGreaterThan(0.01)
        for (const { time } of [base, adapted]) expect(time).toBeGreaterThan(0)
      },
      SLOW,
    )

    test(
      "runs the visitor's model with the visitor's adapter, which are dropped or picked",
      async () => {
        const folder = newFolder()
        const model = join(folder, 'encoder.onnx')
        writeFileSync(model, encoderOnnx(tinyEncoder()))
        const lily = adaptersOf(KINDS['Lily, token'], ENCODER_LAYERS, ['query', 'value']).first
        const adapter = join(folder, 'adapter')
        await lily.savePretrained(adapter)

        await page.setInputFiles('#run-model', model)
        await page.getByRole('button', { name: 'Run the model' }).click()
        await page.locator('#run [role=alert]').getByText('There is no adapter to run the model with.').waitFor(TASK)
        await drop(page, LORA, '#run-drop')
        await page
          .locator('#run-drop')
          .getByText(/Model: encoder\.onnx\. Adapter: .*adapter_config/)
          .waitFor(TASK)
        await page.getByRole('button', { name: 'Run the model' }).click()
        const alert = page.locator('#run [role=alert]')
        await alert.getByText('This model does not run with this adapter.').waitFor(TASK)
        const [lacking] = (await LoraModel.fromPretrained(LORA)).layers.keys()
        expect(await alert.innerText()).toContain(lacking)

        await page.setInputFiles('#run-adapter', adapter)
        const [base, adapted] = await runModel(page)
        const inputs = encoderInputs()
        const outputs = await Promise.all([null, lily].map((each) => encoderOutputs(inputs, each)))
        const [without, with_] = outputs.map(({ hidden }) => hidden)
        const largest = Math.max(...with_.map((value, i) => Math.abs(value - without[i])))
        expect(base.difference).toBe(0)
        expect(Math.abs(adapted.difference / largest - 1)).toBeLessThanOrEqual(0.00501)

        await page.getByRole('button', { name: 'Use the sample' }).click()
        await page.locator('#run-drop').getByText('Without files of yours, a sample runs.').waitFor(TASK)
        const [, ofSample] = await runModel(page)
        expect(Math.abs(ofSample.difference / adapted.difference - 1)).toBeGreaterThan(0.01)
      },
      SLOW,
    )

    test(
      'fits on a phone and on a desktop, and axe finds nothing',
      async () => {
        expect(await problemsOf(page)).toEqual([])
      },
      SLOW,
    )
  })

  test('an ONNX model for which memory lacks is not called wrong', async () => {
    const page = await open({})
    await page.evaluate(() => {
      Float32Array.prototype.reduce = () => {
        throw new RangeError('Array buffer allocation failed')
      }
    })
    await page.getByRole('button', { name: 'Run the model' }).click()
    await page.locator('#run [role=alert]').getByText('The memory is exhausted.').waitFor(TASK)
  })

  test('without navigator.gpu the page runs on WebAssembly, and says so', async () => {
    const page = await open({
      before: () => {
        Object.defineProperty(Object.getPrototypeOf(navigator), 'gpu', { get: () => undefined })
      },
    })
    expect(await page.locator('#backend').innerText()).toContain('This browser has no WebGPU')
    await train(page, 1)
  })

  describe('on WebGPU', () => {
    let page: Page
    beforeAll(async () => {
      page = await open({ args: WEBGPU, before: withSmallLimits })
    }, SLOW)

    test('names the adapter, and says that it is software', async () => {
      const text = await page.locator('#backend').innerText()
      expect(text).toMatch(/WebGPU .*swiftshader/i)
      expect(text).toContain('This GPU is a program on the processor.')
      expect(await page.locator('#backend-webgpu').isChecked()).toBe(true)
    })

    test(
      'says that a shape is too large for the device, and by which limit',
      async () => {
        await benchmark(page, '70000, 1000, 8, 4', 3)
        const alert = page.locator('#benchmark [role=alert]')
        await alert.getByText('This is too large for the GPU device.').waitFor(TASK)
        expect(await alert.innerText()).toContain("the device's limit maxBufferSize, 256 MiB. Choose fewer tokens")
      },
      SLOW,
    )

    test(
      'benchmarks by timestamps, and claims nothing on a software adapter',
      async () => {
        await benchmark(page, '16, 32, 4, 2', 3)
        await page.locator('#benchmark table').waitFor(TASK)
        const rows = await rowsOf(page.locator('#benchmark table'))
        expect(rows).toHaveLength(2)
        for (const cells of rows) for (const cell of cells.slice(1)) expect(parseFloat(cell)).toBeGreaterThan(0)
        const text = await page.locator('#benchmark').innerText()
        expect(text).toContain('differences of timestamps in the queue')
        expect(text).toContain('These times claim nothing about a GPU.')
      },
      SLOW,
    )

    test(
      'runs the sample of an ONNX model',
      async () => {
        const [base, adapted] = await runModel(page)
        expect(base.difference).toBe(0)
        expect(adapted.difference).toBeGreaterThan(0.01)
        expect(await page.locator('#run').innerText()).toContain('These times claim nothing about a GPU.')
        // That of ONNX Runtime; the tests below count those of the page.
        await page.evaluate(() => devices.pop())
      },
      SLOW,
    )

    test(
      'trains; when the device is lost it says so, and measures on a new one, by its queue if it has no timestamps',
      async () => {
        const documented = documentedLosses()
        const losses = await train(page, 25)
        expect(losses.at(0)).toEqual(documented[0])
        expect(Math.abs(Number(losses.at(-1)![1]) - Number(documented[1][1]))).toBeLessThanOrEqual(0.0002)

        await page.fill('#steps', '1000')
        await page.getByRole('button', { name: 'Train', exact: true }).click()
        await page
          .locator('#train')
          .getByText(/Step [1-9]/)
          .waitFor(TASK)
        await page.evaluate(() => {
          devices.at(-1)!.destroy()
        })
        const alert = page.locator('#train [role=alert]')
        await alert.getByText('The GPU device was lost.').waitFor(TASK)
        expect(await page.locator('#backend').innerText()).toContain('The GPU device was lost.')
        expect(await problemsOf(page)).toEqual([])

        // The new device lacks a feature.
        await page.evaluate(() => {
          Object.defineProperty(GPUAdapter.prototype, 'features', { get: () => new Set() })
        })
        await alert.getByRole('button', { name: 'Request the device again' }).click()
        await page
          .locator('#backend')
          .getByText('The GPU device was lost.')
          .waitFor({ state: 'detached', ...TASK })
        expect(await alert.innerText()).toBe('')
        await benchmark(page, '16, 32, 4, 2', 3)
        await page.locator('#benchmark').getByText('lacks the feature timestamp-query').waitFor(TASK)
        await page.locator('#benchmark table').waitFor(TASK)
        expect(await page.evaluate(() => devices.length)).toBe(2)
      },
      SLOW,
    )
  })

  test('a page that is not isolated says that it has one thread', async () => {
    const visit = await site.open(await site.serve({ 'Cross-Origin-Opener-Policy': 'unsafe-none' }))
    visits.push(visit)
    await visit.page.locator('#backend').getByText('WebAssembly has one thread here.').waitFor(TASK)
  })

  test('requests nothing from elsewhere, and logs no errors', () => {
    expect(visits.length).toBeGreaterThan(3)
    const foreign = visits
      .flatMap(({ requests }) => requests)
      .filter((url) => !/^(http:\/\/(localhost|127\.0\.0\.1):|data:|blob:)/.test(url))
    expect(foreign).toEqual([])
    expect(visits.flatMap(({ errors }) => errors)).toEqual([])
  })
})

/** Runs in the page before its scripts: its devices have the default limits, and are kept. */
function withSmallLimits(): void {
  const created: GPUDevice[] = []
  Object.assign(globalThis, { devices: created })
  const limits = { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 }
  Object.defineProperty(GPUAdapter.prototype, 'limits', { get: () => limits })
  // eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with its object
  const request = GPUAdapter.prototype.requestDevice
  GPUAdapter.prototype.requestDevice = async function (descriptor) {
    const device = await request.call(this, descriptor)
    created.push(device)
    return device
  }
}

/** Starts a benchmark of one shape. */
async function benchmark(page: Page, shape: string, rounds: number): Promise<void> {
  for (const box of await page.locator('#benchmark input[type=checkbox]').all()) await box.uncheck()
  await page.fill('#shape-own', shape)
  await page.fill('#rounds', String(rounds))
  await page.getByRole('button', { name: 'Run the benchmark' }).click()
}

/** Trains, and returns the rows of the table: step and loss. */
async function train(page: Page, steps: number): Promise<string[][]> {
  await page.fill('#steps', String(steps))
  await page.getByRole('button', { name: 'Train', exact: true }).click()
  await page.locator('#train .running').waitFor({ state: 'hidden', ...TASK })
  return rowsOf(page.locator('#train table'))
}

/** What the first program of docs/model.md prints: step and loss. */
function documentedLosses(): string[][] {
  const [{ output }] = programsOf('docs/model.md')
  return Array.from(output.matchAll(/^step (\d+): loss ([\d.]+)$/gm), ([, step, loss]) => [step, loss])
}

/** Runs the model, and returns the rows of the table. */
async function runModel(page: Page): Promise<{ name: string; time: number; difference: number }[]> {
  await page.getByRole('button', { name: 'Run the model' }).click()
  await page.locator('#run .running').waitFor({ state: 'hidden', ...TASK })
  expect(await page.locator('#run [role=alert]').innerText()).toBe('')
  const rows = await rowsOf(page.locator('#run table'))
  return rows.map(([name, time, difference]) => ({ name, time: Number(time), difference: Number(difference) }))
}

/** What the page gives to the encoder. */
function encoderInputs() {
  const values = ['input_ids', 'attention_mask'].map((name) => {
    return { name, type: 'int64', shape: ['batch_size', 'sequence_length'] }
  })
  class Made {
    constructor(
      readonly type: string,
      readonly data: ArrayLike<number>,
      readonly dims: readonly number[],
    ) {}
  }
  const { input_ids: ids, attention_mask: mask } = madeUpInputs(values, Made as never) as unknown as Record<
    string,
    Made
  >
  expect(new Set(Array.from(ids.data)).size).toBeGreaterThan(10)
  return { shape: ids.dims as readonly [number, number], ids: Array.from(ids.data), flags: Array.from(mask.data) }
}

/** The cells of the rows of a table. */
async function rowsOf(table: ReturnType<Page['locator']>): Promise<string[][]> {
  const rows = await table.locator('tbody tr').all()
  return Promise.all(rows.map((row) => row.locator('th, td').allInnerTexts()))
}

/** Drops a folder on a zone of the page, as a file manager does. */
async function drop(page: Page, folder: string, id = '#drop'): Promise<void> {
  const zone = page.locator(id)
  await zone.scrollIntoViewIfNeeded()
  const { x, y } = (await zone.boundingBox())!
  const session = await page.context().newCDPSession(page)
  const data = { items: [], files: [folder], dragOperationsMask: 1 }
  for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
    await session.send('Input.dispatchDragEvent', { type, x: x + 10, y: y + 10, data })
  }
  await session.detach()
}

function expectClose(shown: readonly number[], expected: readonly number[], difference: number): void {
  expect(shown).toHaveLength(expected.length)
  shown.forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(difference))
}
