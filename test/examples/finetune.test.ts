/**
 * examples/finetune with --quick, as `npm run example:finetune` runs it, with two routings and dropout.
 *
 * @long
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LilyModel, LoraModel } from 'lily-kernels'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { reportPage } from '../../examples/finetune/report.js'
import { type Results, resultsText } from '../../examples/finetune/results.js'
import {
  type Ended,
  isInstalled,
  type Page,
  pageOf,
  program,
  readReport,
  type Report,
  run,
  skipWithoutPackages,
} from '../support/example.js'

const folder = mkdtempSync(join(tmpdir(), 'lily-finetune-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
skipWithoutPackages()

const main = (options: readonly string[]) => program('finetune/main.ts', options)

const titlesOf = (page: Page) => Array.from(page.querySelectorAll('figure h3'), ({ textContent }) => textContent)

test('the encoder is that of the graph', async () => {
  const { code, stdout, stderr } = await run(program('finetune/check.ts', []))
  expect(code, stderr).toBe(0)
  // Embeddings have norm 1, and their elements a rounding error of a few units of 2^-24; a wrong constant shows as 1e-3.
  expect(Number(stdout)).toBeGreaterThan(0)
  expect(Number(stdout)).toBeLessThan(2e-6)
})

const ROUTINGS = ['sequence', 'learned'] as const

describe('a quick run', () => {
  const output = join(folder, 'complete')
  let ended: Ended
  let report: Report<Results>
  beforeAll(async () => {
    if (!isInstalled) return
    ended = await run(main(['--quick', '--routing', ROUTINGS.join(','), '--dropout', '0.1', '--output', output]))
    expect(ended.code, ended.stderr).toBe(0)
    report = readReport(output) as Report<Results>
  }, 600_000)

  test('lowers the loss with every method', () => {
    const { runs, isComplete } = report.results
    expect(isComplete).toBe(true)
    expect(runs.map(({ method, routing, loraRank, seed }) => [routing ?? method, loraRank, seed])).toEqual([
      ['head', 2, 1],
      ['lora', 2, 1],
      ['sequence', 2, 1],
      ['learned', 2, 1],
      ['head', 2, 2],
      ['lora', 2, 2],
      ['sequence', 2, 2],
      ['learned', 2, 2],
      ['lora', 1, 1],
      ['sequence', 1, 1],
    ])
    for (const { losses } of runs) {
      // A head of zeros: all probabilities are 1/2.
      expect(losses[0]).toBeCloseTo(Math.LN2, 6)
      expect(losses.at(-1)).toBeLessThan(losses[0] - 0.1)
    }
  })

  test('trains the adapters, which have equally many parameters', () => {
    const { runs, analyses } = report.results
    const of = (name: string, loraRank: number) =>
      runs.find((run) => (run.routing ?? run.method) === name && run.loraRank === loraRank && run.seed === 1)!
    for (const [rank, routings] of [
      [1, ROUTINGS.slice(0, 1)],
      [2, ROUTINGS],
    ] as const) {
      const lora = of('lora', rank).parameters
      // q, k and v of a block of 256 and of one of 512.
      expect(lora).toBe(rank * 3 * (2 * 256 + 2 * 512))
      for (const routing of routings) expect(Math.abs(of(routing, rank).parameters / lora - 1)).toBeLessThan(0.01)
    }
    // In the same order, with the same head: only the adapter makes a difference, and the mixture.
    const losses = ['head', 'lora', ...ROUTINGS].map((name) => of(name, 2).losses.at(-1))
    expect(new Set(losses).size).toBe(losses.length)
    const lilies = ROUTINGS.map((routing) => analyses.lily[routing]!.targets.flatMap(({ layers }) => layers))
    for (const layers of [analyses.lora!.layers, ...lilies]) {
      expect(layers).toHaveLength(6)
      for (const { name, update } of layers) expect(update.norm, name).toBeGreaterThan(0)
    }
    for (const { router } of lilies[0]) expect(router.source).toBe('samples')
    for (const { router } of lilies[1]) expect(router.source).toBe('learned')
  })

  test('saves adapters that give the same logits, bit for bit', async () => {
    const { reloads } = report.results
    expect(reloads.map(({ method, routing }) => routing ?? method)).toEqual(['lora', ...ROUTINGS])
    for (const { isEqual, heldOut, heldOutBefore } of reloads) {
      expect(isEqual).toBe(true)
      expect(heldOut).toBe(heldOutBefore)
    }
    for (const [Model, name] of [
      [LoraModel, 'lora'],
      ...ROUTINGS.map((routing) => [LilyModel, `lily-${routing}`] as const),
    ] as const) {
      const model = await Model.fromPretrained(join(output, name))
      expect(model.layers.size).toBe(6)
      const head = model.modulesToSave.get('classifier')
      expect(head?.get('weight')?.shape).toEqual([512, 1])
      expect(head?.get('bias')?.shape).toEqual([1])
    }
  })

  test('measures where the time goes', () => {
    for (const { method, seconds } of report.results.runs) {
      for (const [part, value] of Object.entries(seconds)) {
        const isMeasured = method !== 'head' || part === 'optimiser' || part === 'TensorFlow.js'
        expect(value > 0, `${method}: ${part}`).toBe(isMeasured)
      }
    }
  })

  test('says first that it compares nothing, and which command does', () => {
    const check = /^This is a check that everything works: 96 sentences are too few .*npm run example:finetune$/
    expect(ended.stdout.split('\n')[0]).toMatch(check)
    expect(report.page.querySelector('h1 + p').textContent).toMatch(check)
    expect(report.page.querySelector('h1 + p code').textContent).toBe('npm run example:finetune')
    expect(ended.stdout + report.html).not.toContain('minus LoRA, seed by seed')
  })

  test('learns the sentences that it is trained on', () => {
    for (const { method, training } of report.results.runs) {
      expect(training, method).toBeGreaterThan(0.9)
    }
    const tiles = Array.from(report.page.querySelectorAll('.tile'), ({ textContent }) => textContent)
    expect(tiles).toHaveLength(2 + ROUTINGS.length)
    for (const tile of tiles) expect(tile).toContain('% right of the training sentences')
  })

  test('prints a table and writes a page without other resources', () => {
    const rows = ended.stdout.split('\n').slice(2)
    expect(rows[0]).toMatch(/^method +parameters +seeds +first loss +last loss +training, % +s \/ epoch$/)
    expect(rows[1]).toMatch(/^head only +0 +2 +0\.693 +0\.\d{3} +\d+\.\d ± \d+\.\d +\d+\.\d$/)
    // The first routing has two sizes.
    for (const [routing, sizes] of [
      ['sequence', 2],
      ['learned', 1],
    ] as const) {
      expect(rows.filter((row) => new RegExp(`^Lily \\(${routing}\\) +[\\d,]+ +\\d+ `).test(row))).toHaveLength(sizes)
    }

    const { html, page } = report
    const titles = titlesOf(page)
    expect(titles).toEqual([
      'Loss',
      ...ROUTINGS.flatMap((routing) => [`Weights of Lily (${routing})`, `Experts of Lily (${routing})`]),
      'Effective rank of the updates',
      'Seconds per epoch',
    ])
    expect([...page.querySelectorAll('figure svg')]).toHaveLength(titles.length)
    expect([...page.querySelectorAll('link, img, iframe, script[src]')]).toEqual([])
    expect(html).not.toMatch(/@import|url\(/)
    expect(html).not.toContain('NaN')
  })

  test('of the same runs, a comparison has accuracies and their differences', () => {
    const results = { ...report.results, isQuick: false }
    const rows = resultsText(results).split('\n')
    expect(rows[0]).toMatch(/^method +parameters +seeds +held out, % +imdb, % +s \/ epoch$/)
    expect(rows[1]).toMatch(/^head only +0 +2 +\d+\.\d ± \d+\.\d +\d+\.\d ± \d+\.\d +\d+\.\d$/)
    for (const routing of ROUTINGS) {
      expect(rows.join()).toContain(`Lily (${routing}) minus LoRA, seed by seed: `)
    }
    const html = reportPage(results)
    const page = pageOf(html)
    expect(titlesOf(page).slice(0, 3)).toEqual(['Loss', 'Accuracy during training', 'Accuracy by size'])
    expect(html).toContain('minus LoRA, seed by seed')
    expect(html).not.toMatch(/a check|NaN/)
  })
})

test.each([
  [['--epochs', '3'], "Unknown option '--epochs'"],
  [['--routing', 'batch,fixed'], '--routing: expected some of batch, .*, got fixed'],
  [['--dropout', '1'], '--dropout: expected a number from 0 to less than 1, got 1'],
])('refuses %s, and says which options there are', async (options, message) => {
  const { code, stdout, stderr } = await run(main(options))
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toMatch(
    new RegExp(`^error: ${message}.*; the options are --routing NAME, --dropout RATE, --quick and --output FOLDER\n$`),
  )
})

test('an interrupt keeps the runs that are complete', async () => {
  const output = join(folder, 'interrupted')
  let isInterrupted = false
  const { code, stderr } = await run(main(['--quick', '--output', output]), {}, (text, interrupt) => {
    if (isInterrupted || !text.includes('Lily (sequence), rank 2, seed 1')) return
    isInterrupted = true
    interrupt()
  })
  expect(code, stderr).toBe(130)
  expect(stderr).toContain('interrupted')
  const { page, results } = readReport(output) as Report<Results>
  expect(results.isComplete).toBe(false)
  expect(results.runs.map(({ method }) => method)).toEqual(['head', 'lora'])
  expect(page.querySelector('header').textContent).toContain('Interrupted')
}, 600_000)
