/** `lily-kernels inspect` as a child process. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { describe, expect, test } from 'vitest'
import { loraCharts, targetCharts } from '../../cli/inspect/charts.js'
import { type Inspection, layerLabels } from '../../cli/inspect/inspection.js'
import { type LoraInspection, loraTargets } from '../../cli/inspect/lora-inspection.js'
import { loraText } from '../../cli/inspect/lora-text.js'
import { inspectionText } from '../../cli/inspect/text.js'
import { cellChart, weightScale } from '../../report/cell-chart.js'
import { integerTicks, labelled, logarithmic, ranksFromZero } from '../../report/chart.js'
import { packageRoot } from '../../lib/binding/root.js'
import { replaceWithTensors, type TensorSource } from '../../lib/checkpoint/safetensors-write.js'
import {
  analyse,
  LilyModel,
  type LoraAnalysis,
  LoraModel,
  type Parameter,
  type TargetAnalysis,
  tensor,
  type Tensor,
  writeSafetensors,
} from '../../lib/index.js'
import { forward } from '../support/reference.js'
import { bytesOf, CONFIG, GOLDEN, goldenCopy, newFolder, TENSORS, withFields } from '../support/checkpoint.js'
import { runCli, runCliIn } from '../support/cli.js'
import { gaussian, randomFrom } from '../support/random.js'

const LORA_FOLDER = join(packageRoot, 'test/fixtures/lora/patterns')

/** The subset of the DOM that the tests use. */
interface Page {
  readonly textContent: string
  querySelector(selector: string): Page | null
  querySelectorAll(selector: string): ArrayLike<Page>
}

const dataOf = ({ value }: Parameter) => value.data as Float32Array

async function writeSamples(path: string, width = 32): Promise<void> {
  const random = randomFrom(1)
  const samples = new Map<string, Tensor>()
  for (let l = 0; l < 4; l++) {
    for (const name of ['q_proj', 'v_proj']) {
      samples.set(`layers.${l}.self_attn.${name}`, tensor(gaussian(random, 6 * width, 3), [2, 3, width]))
    }
  }
  await writeSafetensors(path, samples)
}

describe('inspect', () => {
  test('with samples, writes a table, JSON and a page', async () => {
    const folder = newFolder()
    const [samples, json, html] = ['samples.safetensors', 'all.json', 'all.html'].map((name) => join(folder, name))
    await writeSamples(samples)
    const { code, stdout, stderr } = await runCli([
      'inspect',
      GOLDEN,
      '--samples',
      samples,
      '--json',
      json,
      '--html',
      html,
    ])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('r 8, stride_A 2, num_B 3, scaling 2, routing batch; 8 layers, ')
    for (const title of ['q_proj: 4 layers of 32 to 32; LoRA', 'v_proj: 4 layers of 32 to 16; LoRA']) {
      expect(stdout).toContain(title)
    }
    expect(stdout.match(/^layer +w0 +w1 +w2 +entropy +of tokens +\|dW\| +effective rank +in LoRA\n0 /gm)).toHaveLength(
      2,
    )
    // One line per layer: three weights, two entropies, the update.
    expect(stdout.match(/^[0-3]( +\d\.\d\d){3}( +\d+%){2} +\d\.\d+ +\d\.\d +\d+%$/gm)).toHaveLength(8)

    const inspection = JSON.parse(readFileSync(json, 'utf8')) as Inspection
    expect(stdout.match(/^expert +\|B\| +cos 0 +cos 1 +cos 2$/gm)).toHaveLength(2)
    const expertRows = inspection.analysis.targets.flatMap(({ experts: { norms, cosines } }) =>
      norms.map((norm, e) => {
        const shown = cosines[e].map((cosine) => cosine.toFixed(2).replace('-0.00', '0.00'))
        return [e, norm.toPrecision(3), ...shown].join(' ')
      }),
    )
    const printed = stdout.match(/^[0-2] +[\d.]+( +-?\d\.\d\d){3}$/gm)?.map((line) => line.replace(/ +/g, ' '))
    expect(printed).toEqual(expertRows)
    const layers = inspection.analysis.targets.flatMap((target) => target.layers)
    expect(layers).toHaveLength(8)
    for (const { router } of layers) {
      expect(router.source).toBe('samples')
      expect(router.weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 6)
    }

    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('figure.chart svg')).toHaveLength(2 * 6)
    expect(document.querySelectorAll('tbody tr')).toHaveLength(8)
    // The page is self-contained: the only script element holds the data.
    expect(document.querySelectorAll('script:not([type="application/json"]), link, img')).toHaveLength(0)
    expect(JSON.parse(document.querySelector('#report')!.textContent)).toEqual(inspection)
  })

  describe('masks', () => {
    const kept = [true, true, false, true, false, false]
    const names = [0, 1, 2, 3].flatMap((l) => ['q_proj', 'v_proj'].map((name) => `layers.${l}.self_attn.${name}`))
    const name = 'layers.1.self_attn.v_proj'
    const ones = { dtype: 'BOOL', shape: [2, 3], bytes: () => new Uint8Array(6).fill(1) }

    /** Inspects with random samples [2, 3, 32], in which masked tokens are NaN, and these other tensors. */
    const inspect = async (masks: Record<string, TensorSource>, adapter = GOLDEN) => {
      const random = randomFrom(1)
      const all = names.map((each) => {
        const x = gaussian(random, 6 * 32, 3)
        kept.forEach((keep, t) => !keep && !(`${each}.mask` in masks) && x.fill(NaN, 32 * t, 32 * (t + 1)))
        return [each, x] as const
      })
      const path = join(newFolder(), 'samples.safetensors')
      const samples = all.map(([each, x]): [string, TensorSource] => [each, bytesOf('F32', [2, 3, 32], x)])
      await replaceWithTensors(path, new Map([...samples, ...Object.entries(masks)]), new Map())
      const { code, stdout, stderr } = await runCli(['inspect', adapter, '--samples', path, '--json'])
      const routers = () =>
        new Map(
          (JSON.parse(stdout) as Inspection).analysis.targets.flatMap((target) =>
            target.layers.map(({ name, router }) => [name, router]),
          ),
        )
      return { code, stderr, routers, all: new Map(all) }
    }

    /** The mean weights of a router over the tokens of x, in float64. */
    const expectedWeights = async (layer: string, x: Float32Array, tokens: readonly number[]) => {
      const { a, router } = (await LilyModel.fromPretrained(GOLDEN)).layer(layer)
      const [rank, width] = a.value.shape
      const [experts] = router.value.shape
      const mean = new Float64Array(experts)
      for (const t of tokens) {
        const hidden = Array.from({ length: rank }, (_, k) =>
          Array.from({ length: width }, (_, i) => x[t * width + i] * a.value.data[k * width + i]).reduce(
            (p, q) => p + q,
          ),
        )
        const exps = Array.from({ length: experts }, (_, e) =>
          Math.exp(hidden.reduce((sum, value, k) => sum + value * router.value.data[e * rank + k], 0)),
        )
        const sum = exps.reduce((p, q) => p + q)
        exps.forEach((value, e) => (mean[e] += value / sum / tokens.length))
      }
      return [...mean]
    }

    test('masked tokens do not count, and a layer can have a mask of its own', async () => {
      const mask = bytesOf(
        'I64',
        [2, 3],
        BigInt64Array.from(kept, (keep) => (keep ? 1n : 0n)),
      )
      const { code, stderr, routers, all } = await inspect({ mask, [`${name}.mask`]: ones })
      expect(code, stderr).toBe(0)
      expect([...routers().keys()].sort()).toEqual([...names].sort())
      for (const [layer, { weights, source, tokenEntropy }] of routers()) {
        const tokens = kept.flatMap((keep, t) => (keep || layer === name ? [t] : []))
        const expected = await expectedWeights(layer, all.get(layer)!, tokens)
        expect(source).toBe('samples')
        expect(tokenEntropy).toBeGreaterThan(0)
        weights.forEach((weight, e) => expect(weight, layer).toBeCloseTo(expected[e], 5))
      }
    })

    test('each sequence is pooled by itself', async () => {
      const mask = bytesOf('U8', [2, 3], Uint8Array.of(1, 1, 0, 1, 0, 0))
      const sequences = withFields({ lily_routing: 'sequence', lily_pool: 'logits' })
      const { code, stderr, routers, all } = await inspect({ mask, [`${name}.mask`]: ones }, sequences)
      expect(code, stderr).toBe(0)
      for (const [layer, { weights }] of routers()) {
        const { a, router, b } = (await LilyModel.fromPretrained(GOLDEN)).layer(layer)
        const [sizes, x] = [layer === name ? [3, 3] : [2, 1], all.get(layer)!]
        const tokens = sizes[0] + sizes[1]
        const parts = sizes.map((size, s) => {
          const problem = { dIn: 32, dOut: layer.endsWith('q_proj') ? 32 : 16, rank: 8, experts: 3, tokens: size }
          const values = {
            a: dataOf(a),
            router: dataOf(router),
            b: dataOf(b),
            x: x.subarray(96 * s, 96 * s + 32 * size),
          }
          return forward({ ...problem, ...values, routing: 'batch', pool: 'logits' }).weights.value
        })
        weights.forEach((weight, e) => {
          const mean = parts.reduce((sum, part, s) => sum + (part[e] * sizes[s]) / tokens, 0)
          expect(weight, layer).toBeCloseTo(mean, 5)
        })
      }
    })

    test.each([
      ['BOOL', Uint8Array.from(kept, Number)],
      ['U8', Uint8Array.from(kept, Number)],
      ['I8', Int8Array.from(kept, Number)],
      ['I32', Int32Array.from(kept, Number)],
      ['F32', Float32Array.from(kept, Number)],
    ])('%s', async (dtype, data) => {
      const { code, stderr, routers } = await inspect({ mask: bytesOf(dtype, [2, 3], data) })
      expect(code, stderr).toBe(0)
      for (const { weights } of routers().values()) for (const weight of weights) expect(weight).toBeGreaterThan(0)
    })

    test.each<[string, Record<string, TensorSource>, string]>([
      [
        'another shape',
        { mask: { ...ones, shape: [6] } },
        'mask "mask": expected [2, 3], a flag for each token of "layers.',
      ],
      [
        'other values',
        { mask: bytesOf('I32', [2, 3], Int32Array.of(1, 1, 2, 1, 0, 0)) },
        'element 2 is 2; expected 0 for',
      ],
      [
        'another type',
        { mask: bytesOf('F64', [2, 3], new Float64Array(6)) },
        'expected data type BOOL, U8, I8, I32, I64, F32, got F64',
      ],
      [
        'no kept token',
        { [`${name}.mask`]: bytesOf('U8', [2, 3], new Uint8Array(6)) },
        `mask "${name}.mask": drops all tokens`,
      ],
    ])('%s is refused', async (_, masks, message) => {
      const { code, stderr } = await inspect(masks)
      expect(code).toBe(1)
      expect(stderr).toContain('ERR_LILY_CHECKPOINT: ')
      expect(stderr).toContain(message)
    })
  })

  test('the example of docs/checkpoints.md runs', async () => {
    const folder = newFolder()
    mkdirSync(join(folder, 'node_modules'))
    symlinkSync(packageRoot, join(folder, 'node_modules', 'lily-kernels'))
    const [, program] = /^## What an adapter has learnt.*?```js\n(.*?)```/ms.exec(
      readFileSync(join(packageRoot, 'docs', 'checkpoints.md'), 'utf8'),
    )!
    execFileSync(process.execPath, ['--input-type=module'], { cwd: folder, input: program })
    const samples = join(folder, 'samples.safetensors')
    const { code, stdout, stderr } = await runCli(['inspect', join(folder, 'adapter'), '--samples', samples])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('w: weights of the experts, mean over the samples')
  })

  test('control characters of names are escaped, in text, JSON and the page', async () => {
    const names = ['\u001b[31mRed', 'c1\u009b31m', 'del\u007f', 'bidi\u202egnp', 'two\nlines\u2028', '<b>\u2066'].map(
      (part, l) => `layers.${l}.${part}.q_proj`,
    )
    const layers = names.map((name) => ({ name, inFeatures: 8, outFeatures: 8 }))
    const folder = join(newFolder(), 'evil\u001b[2J\u202e')
    const config = { r: 2, strideA: 1, numB: 2, targetModules: ['q_proj'] }
    await LilyModel.create({ layers, config, seed: 1 }).savePretrained(folder)
    const [json, html] = ['a.json', 'a.html'].map((name) => join(newFolder(), name))
    const { code, stdout, stderr } = await runCli(['inspect', folder, '--json', json, '--html', html])
    expect(code, stderr).toBe(0)

    const texts = [stdout, stderr, readFileSync(json, 'utf8'), readFileSync(html, 'utf8')]
    for (const text of texts) expect(/[^\P{C}\n]|[\u2028\u2029]/u.exec(text)).toBeNull()
    for (const shown of ['\\u001b[31mRed', 'c1\\u009b31m', 'del\\u007f', 'bidi\\u202egnp', 'two\\u000alines\\u2028']) {
      expect(stdout).toContain(shown)
      expect(texts[3].includes(shown)).toBe(true)
    }
    expect(stdout).toMatch(/^\S*evil\\u001b\[2J\\u202e: r 2, /m)
    // Data keeps the names.
    const inspection = JSON.parse(texts[2]) as Inspection
    expect(inspection.folder).toBe(folder)
    expect(inspection.analysis.targets[0].layers.map(({ name }) => name)).toEqual(names)
    const { document } = parseHTML(texts[3]) as unknown as { document: Page }
    expect(document.querySelectorAll('b')).toHaveLength(0)
    expect(JSON.parse(document.querySelector('#report')!.textContent)).toEqual(inspection)
  })

  test.each([
    [
      'Lily',
      LilyModel.create({ layers: [{ name: 'q', inFeatures: 4, outFeatures: 4 }], config: { r: 2, numB: 2 }, seed: 1 }),
    ],
    [
      'LoRA',
      LoraModel.create({
        layers: [{ name: 'q', inFeatures: 4, outFeatures: 4 }],
        config: { r: 2, targetModules: ['q'] },
        seed: 1,
      }),
    ],
  ])('markup in the name of a folder of %s is text in the page', async (_, model) => {
    const folder = join(newFolder(), 'a<', 'title><img src=x>&lt;')
    await model.savePretrained(folder)
    const html = join(newFolder(), 'page.html')
    const { code, stderr } = await runCli(['inspect', folder, '--html', html])
    expect(code, stderr).toBe(0)
    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('img')).toHaveLength(0)
    expect(readFileSync(html, 'utf8')).toContain('a&lt;/title>&lt;img src=x>&amp;lt;')
  })

  test('an error about a file is one line without control characters', async () => {
    const { code, stderr } = await runCli(['inspect', withFields({ peft_type: 'A\u001b[31m\u009b\n\u202eB' })])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^error: ERR_LILY_CHECKPOINT: .*\n$/)
    expect(/[^\P{C}\n]/u.exec(stderr)).toBeNull()
  })

  test('without samples, does not show the routers', async () => {
    const html = join(newFolder(), 'page.html')
    const { code, stdout, stderr } = await runCli(['inspect', GOLDEN, '--html', html])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('no samples: the weights are taken as equal')
    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('figure.chart svg')).toHaveLength(2 * 4)
    expect(document.querySelector('.alert')!.textContent).toContain('No samples: the weights are taken as equal')
  })

  test('says where the weights in the table are from', async () => {
    const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 4, outFeatures: 4 }))
    const model = LilyModel.create({ layers, config: { r: 2, numB: 3, initWeights: false }, seed: 1 })
    const textFor = async (samples: Record<string, Tensor[]> | undefined) => {
      const analysis = await analyse(model, { samples })
      return inspectionText({ version: '', folder: '', samples: samples === undefined ? null : 'file', analysis })
    }
    const samples = { '1.q': [tensor(gaussian(randomFrom(1), 8), [2, 4])] }
    const meanText = 'w: weights of the experts, mean over the samples'
    expect(await textFor(samples)).toContain(`${meanText}\nentropy`)

    model.freeze({ '0.q': [0.7, 0.2, 0.1] })
    const one = await textFor(undefined)
    expect(one).toContain('0.70  0.20  0.10')
    expect(one).toContain('w: weights of the experts, those that a layer is frozen with\n')
    expect(one).toContain(
      'no samples: the weights of other layers are taken as equal, and the routers are not analysed',
    )
    expect(await textFor(samples)).toContain(`${meanText}, or those that a layer is frozen with\nentropy`)

    model.freeze('uniform')
    const all = await textFor(undefined)
    expect(all).toContain('those that a layer is frozen with\nno samples: the routers are not analysed\n')
  })

  test('shows learned mixtures without samples', async () => {
    const layers = ['0.q', '1.q'].map((name) => ({ name, inFeatures: 4, outFeatures: 4 }))
    const config = { r: 2, numB: 3, initWeights: false, routing: 'learned' } as const
    const model = LilyModel.create({ layers, config, seed: 1 })
    for (const [l, layer] of [...model.layers.values()].entries()) dataOf(layer.router).set([0, Math.log(2 + l), 0])
    const folder = newFolder()
    await model.savePretrained(folder, { format: 'compact' })
    const html = join(newFolder(), 'page.html')
    const { code, stdout, stderr } = await runCli(['inspect', folder, '--html', html])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('routing learned; 2 layers')
    for (const row of [/^0 +0\.25 +0\.50 +0\.25 +95% +-/m, /^1 +0\.20 +0\.60 +0\.20 +86% +-/m]) {
      expect(stdout).toMatch(row)
    }
    expect(stdout).toContain('w: weights of the experts, the mixture that a layer has learned\nentropy')
    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('figure.chart svg')).toHaveLength(6)
    const text = document.querySelector('body')!.textContent
    for (const title of ['Mixtures', 'Entropy of the mixtures', '1/E = 0.33, all equal']) expect(text).toContain(title)
    expect(document.querySelector('.alert')).toBeNull()
  })

  test('a LoRA adapter: a table, JSON and a page with its updates', async () => {
    const folder = newFolder()
    const [json, html] = ['all.json', 'all.html'].map((name) => join(folder, name))
    const { code, stdout, stderr } = await runCli(['inspect', LORA_FOLDER, '--json', json, '--html', html])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('LoRA, r 2, alpha 8; 6 layers, 529 parameters')
    expect(stdout).toContain('down_proj: 2 layers of 17 to 12')
    // Layer, rank, scaling, norm, largest singular value, effective rank.
    expect(stdout.match(/^[01] +\d( +\d+(\.\d+)?){4}$/gm)).toHaveLength(6)

    const { analysis } = JSON.parse(readFileSync(json, 'utf8')) as LoraInspection
    expect(analysis).toEqual(await analyse(await LoraModel.fromPretrained(LORA_FOLDER)))
    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('figure.chart svg')).toHaveLength(3 * 2)
    expect(document.querySelector('h1')!.textContent).toBe('LoRA adapter')
    expect(document.querySelector('header')!.textContent).toContain('r 2, alpha 8')
  })

  test('one layer is in the singular', async () => {
    const layers = [{ name: 'q', inFeatures: 4, outFeatures: 4 }]
    const of = { version: '', folder: 'f' }
    const lily = await analyse(LilyModel.create({ layers, config: { r: 2, numB: 2 }, seed: 1 }))
    const lora = await analyse(LoraModel.create({ layers, config: { r: 2, targetModules: ['q'] }, seed: 1 }))
    expect(inspectionText({ ...of, samples: null, analysis: lily })).toMatch(/; 1 layer, 28 parameters\n/)
    expect(loraText({ ...of, analysis: lora })).toMatch(/; 1 layer, 16 parameters\n/)
  })

  // Time that is quadratic in the number of layers would take several times as long.
  test('many layers are labelled and grouped in time', { timeout: 30_000 }, () => {
    const names = Array.from({ length: 100_000 }, (_, i) => `model.layers.${i}.self_attn.q_proj`)
    expect(layerLabels(names.map((name) => ({ name }))).slice(-1)).toEqual(['99999'])
    const size = { target: 'q_proj', inFeatures: 1, outFeatures: 1 }
    const layers = names.map((name) => ({ name, ...size })) as unknown as LoraAnalysis['layers']
    const targets = loraTargets({ layers } as LoraAnalysis)
    expect(targets.map(({ layers }) => layers.length)).toEqual([names.length])
  })

  test('a chart has more cells than a call can have arguments', { timeout: 60_000 }, () => {
    const update = { singularValues: [1], spectralNorm: 1, effectiveRank: 1, norm: 1, sharedWithLora: 1 }
    const router = { weights: new Array<number>(70_000).fill(1), entropy: 1, tokenEntropy: 1, source: 'samples' }
    const layers = ['0', '1'].map((name) => ({ name, router, update }))
    const target = { layers, loraRank: 1, experts: { cosines: [[1]], norms: [1] } }
    expect(targetCharts(target as unknown as TargetAnalysis)).toHaveLength(6)
    expect(labelled(new Array<string>(200_000).fill('a')).marginLeft).toBe(44)
  })

  test('an adapter that is not trained has charts without bars', async () => {
    const layers = [{ name: 'q', inFeatures: 4, outFeatures: 4 }]
    const lily = await analyse(LilyModel.create({ layers, config: { r: 2, numB: 2 }, seed: 1 }))
    const lora = await analyse(LoraModel.create({ layers, config: { r: 2, targetModules: ['q'] }, seed: 1 }))
    const charts = [...targetCharts(lily.targets[0]), ...loraCharts(lora.layers)]
    // A layer of each, and two experts. Cells are transparent, and bars are not.
    const rectangles = charts.flatMap(({ outerHTML }) => outerHTML.match(/<rect [^>]*>/g) ?? [])
    const bars = rectangles.filter((rectangle) => !rectangle.includes('fill-opacity'))
    expect(bars).toHaveLength(4)
    for (const bar of bars) expect(bar).toMatch(/ width="0"/)
  })

  test('the map of a router is centred at 1/E, which its legend says', () => {
    const cells = [0, 0.125, 0.25, 0.3125, 0.5, 0.9].map((value, x) => ({ x, y: 'a', value }))
    const html = cellChart({ title: '', text: '', cells, rows: ['a'], scale: weightScale(4) }).outerHTML
    const rectangles = [...html.matchAll(/<rect ([^>]*fill-opacity[^>]*)>/g)]
    const shown = rectangles.map(([, text]) => [
      / fill="var\(--(\w+)\)"/.exec(` ${text}`)?.[1],
      Number(/fill-opacity="([^"]*)"/.exec(text)?.[1]),
    ])
    expect(shown).toEqual([
      ['lora', 1],
      ['lora', 0.5],
      ['lily', 0],
      ['lily', 0.25],
      ['lily', 1],
      ['lily', 1],
    ])
    const { document } = parseHTML(html) as unknown as { document: Page }
    const [ramp, ...labels] = Array.from(document.querySelectorAll('.ramp span'), (span) => span)
    expect(labels.map(({ textContent }) => textContent)).toEqual(['0', '1/E = 0.25, all equal', '≥ 2/E'])
    expect((ramp as unknown as { outerHTML: string }).outerHTML).toContain('var(--lora), var(--surface), var(--lily)')
    expect(weightScale(3)).toMatchObject({ middle: 1 / 3, labels: ['0', '1/E = 0.33, all equal', '≥ 2/E'] })
  })

  test('ranks and steps have ticks at integers', async () => {
    expect(integerTicks(1, 3, 6)).toMatchObject({ ticks: [1, 2, 3] })
    expect(logarithmic([1.21, 1.4]).ticks, 'a log axis between close values').toEqual([1.25, 1.3, 1.35, 1.4])
    expect(logarithmic([0.97, 1.1]).ticks, 'not 1 alone').toEqual([1, 1.05, 1.1])
    expect(logarithmic([0.9, 30]).ticks).toEqual([1, 3, 10, 30])
    expect(integerTicks(0, 1, 6)).toMatchObject({ ticks: [0, 1] })
    expect(ranksFromZero([0.3, 2.2])).toMatchObject({ domain: [0, 3], ticks: [0, 1, 2, 3] })
    expect(ranksFromZero([0])).toMatchObject({ domain: [0, 1], ticks: [0, 1] })
    const layers = [{ name: 'q', inFeatures: 4, outFeatures: 4 }]
    const config = { r: 2, targetModules: ['q'], initLoraWeights: false } as const
    const lora = await analyse(LoraModel.create({ layers, config, seed: 1 }))
    const [ranks, spectra] = loraCharts(lora.layers).map(({ outerHTML }) => outerHTML)
    const ticksOf = (html: string) => [...html.matchAll(/<text[^>]*>([\d.]+)<\/text>/g)].map(([, text]) => text)
    expect(ticksOf(ranks)).toEqual(expect.arrayContaining(['0', '1', '2']) as string[])
    expect(ticksOf(ranks).join(' ')).not.toContain('.')
    // The other axis has shares.
    expect(ticksOf(spectra)).toEqual(expect.arrayContaining(['1', '2', '0.2']) as string[])
    expect(ticksOf(spectra)).not.toContain('1.5')
  })

  test('labels are the parts that differ, or all parts of names that differ in length', () => {
    const labelsOf = (...names: string[]) => layerLabels(names.map((name) => ({ name })))
    expect(labelsOf('a.0.x.p', 'a.1.y.p')).toEqual(['0.x', '1.y'])
    expect(labelsOf('a.0.p', 'a.1.b.p')).toEqual(['a.0.p', 'a.1.b.p'])
    expect(labelsOf('a.0.p')).toEqual(['a.0.p'])
  })

  test.each([[['--json']], [['--json', '-']]])('%j writes only JSON', async (args) => {
    const { code, stdout } = await runCli(['inspect', GOLDEN, ...args])
    expect(code).toBe(0)
    expect((JSON.parse(stdout) as Inspection).analysis.r).toBe(8)
    expect(existsSync('-')).toBe(false)
  })

  test('writes no page unless --html asks for one', async () => {
    const folder = newFolder()
    const inFolder = (...args: string[]) => runCliIn(`cd '${folder}' && "$@"`, ['inspect', GOLDEN, ...args])
    const { code, stdout, stderr } = await inFolder()
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain('effective rank')
    expect(readdirSync(folder)).toEqual([])
    expect(await inFolder('--html', 'page.html')).toMatchObject({ code: 0, stderr: 'charts: page.html\n' })
    expect(readdirSync(folder)).toEqual(['page.html'])
  })

  test('refuses outputs that are files of the adapter or of the samples, and leaves them as they are', async () => {
    const folder = goldenCopy()
    const [samples, link] = [join(folder, 'samples.safetensors'), join(newFolder(), 'link')]
    await writeSamples(samples)
    symlinkSync(folder, link)
    const names = [CONFIG, TENSORS, 'samples.safetensors']
    const contents = () => names.map((name) => readFileSync(join(folder, name)))
    const before = contents()
    const outputs = [
      ['--json', join(folder, CONFIG)],
      ['--html', join(link, TENSORS)],
      ['--json', join(link, 'samples.safetensors')],
      // There is none yet; the next load would read it.
      ['--json', join(link, 'adapter_frozen.json')],
    ]
    for (const args of outputs) {
      const { code, stderr } = await runCli(['inspect', folder, '--samples', samples, ...args])
      expect(code, args.join(' ')).toBe(1)
      expect(stderr).toContain(`${args.at(-1)!} cannot be written: it is a file of the input; name another file`)
    }
    expect(contents()).toEqual(before)
    expect(readdirSync(folder).sort()).toEqual([...names].sort())
  })

  test('exits with code 1 and a message if the input cannot be read', async () => {
    const folder = newFolder()
    const html = join(folder, 'page.html')
    const samples = join(folder, 'samples.safetensors')
    await writeSamples(samples, 5)
    const calls: [string[], string][] = [
      [[join(folder, 'none')], 'ERR_LILY_CHECKPOINT: '],
      [
        [withFields({ peft_type: 'LOHA' })],
        "expected peft_type 'LILY' or 'LORA', got \"LOHA\"; only adapters of Lily and LoRA",
      ],
      [[LORA_FOLDER, '--samples', samples], 'error: --samples are for the routers of Lily'],
      [[GOLDEN, '--samples', samples], 'ERR_LILY_SHAPE: '],
      [
        [GOLDEN, '--samples', join(GOLDEN, TENSORS)],
        `${TENSORS}: tensor "base_model.model.layers.0.self_attn.q_proj.lily_A.weight": expected the name of an adapted layer`,
      ],
      [[], "missing required argument 'folder'"],
    ]
    for (const [args, message] of calls) {
      const { code, stderr } = await runCli(['inspect', ...args, '--html', html])
      expect(code).toBe(1)
      expect(stderr).toContain(message)
      // No stack trace.
      expect(stderr).not.toMatch(/^ +at /m)
    }
    expect(existsSync(html)).toBe(false)
  })
})
