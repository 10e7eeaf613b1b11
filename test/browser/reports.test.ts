/** The pages that the command line writes, in headless Chromium. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { analyse, LilyModel, LoraModel } from 'lily-kernels'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Report } from '../../bench/harness/report.js'
import { reportPage } from '../../cli/bench/page.js'
import { readReports } from '../../cli/bench/read-reports.js'
import { loraPage } from '../../cli/inspect/lora-page.js'
import { inspectionPage } from '../../cli/inspect/page.js'
import { packageRoot } from '../../lib/binding/root.js'
import { GOLDEN } from '../support/checkpoint.js'
import { problemsOf } from '../support/page-problems.js'
import { gaussian, randomFrom } from '../support/random.js'
import { chromiumProgram } from '../support/site.js'

const missing = chromiumProgram === undefined ? 'there is no chromium (Debian: apt install chromium)' : undefined
if (missing !== undefined) test('reports', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('reports', () => {
  let browser: Browser
  let page: Page
  beforeAll(async () => {
    // Containers run tests as root, which the sandbox refuses.
    browser = await chromium.launch({ executablePath: chromiumProgram!, chromiumSandbox: false })
    page = await browser.newPage()
  })
  afterAll(() => browser?.close())

  const shown = async (html: string): Promise<Page> => {
    await page.setContent(html)
    return page
  }

  /** A run on two backends, of which the second one failed at a case and was interrupted. */
  const benchPage = (): string => {
    const file = join(packageRoot, 'bench', 'results', 'cpu-zen5-avx512bf16-2-threads.json')
    const [recorded] = readReports(readFileSync(file, 'utf8'))
    // Marks are the widest cells.
    const doubts = ['floor', 'spread'] as const
    const report: Report = { ...recorded, results: recorded.results.map((result) => ({ ...result, doubts })) }
    const [{ shape, dtype, routing }] = report.results
    const failures = [{ shape: { ...shape, rank: 2 }, dtype, routing, reason: 'not enough memory' }]
    const machine = { ...report.machine, backend: 'webgpu' } as const
    return reportPage([report, { ...report, machine, failures, complete: false }])
  }

  const lilyPage = async (): Promise<string> => {
    const model = await LilyModel.fromPretrained(GOLDEN)
    const samples = Array.from(model.layers, ([name, { inFeatures }]) => {
      return [name, [{ data: gaussian(randomFrom(1), 4 * inFeatures), shape: [4, inFeatures] }]] as const
    })
    const analysis = await analyse(model, { samples: new Map(samples) })
    const inspection = { version: '0', folder: 'adapter', samples: 'samples', analysis }
    return inspectionPage(inspection, inspection)
  }

  const loraAdapterPage = async (): Promise<string> => {
    const model = await LoraModel.fromPretrained(join(packageRoot, 'test', 'fixtures', 'lora', 'plain'))
    const inspection = { version: '0', folder: 'adapter', analysis: await analyse(model) }
    return loraPage(inspection, inspection)
  }

  test.each([
    ['bench', benchPage],
    ['inspect, of Lily', lilyPage],
    ['inspect, of LoRA', loraAdapterPage],
  ])('of %s fits on a phone and on a desktop, and axe finds nothing', async (_, pageOf) => {
    expect(await problemsOf(await shown(await pageOf()))).toEqual([])
  })

  test('of bench has the shape of a case as the header of both of its rows', async () => {
    const view = await shown(benchPage())
    const table = view.getByRole('region', { name: 'webgpu: float32, batch routing' })
    const [header, backward] = [table.getByRole('rowheader').nth(1), table.locator('tbody tr').nth(3)]
    expect(await header.innerText()).toBe('2048, 768, 32, 4')
    expect(await header.getAttribute('rowspan')).toBe('2')
    expect(await backward.locator('td').allInnerTexts()).toHaveLength(
      (await table.getByRole('columnheader').count()) - 1,
    )
  })
})
