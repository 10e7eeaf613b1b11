/** `lily-kernels inspect` as a child process. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { describe, expect, test } from 'vitest'
import type { Inspection } from '../cli/inspect/inspection.js'
import { tensor, type Tensor, writeSafetensors } from '../lib/index.js'
import { GOLDEN, newFolder, withFields } from './support/checkpoint.js'
import { runCli } from './support/cli.js'
import { gaussian, randomFrom } from './support/random.js'

/** The subset of the DOM that the tests use. */
interface Page {
  readonly textContent: string
  querySelector(selector: string): Page | null
  querySelectorAll(selector: string): ArrayLike<Page>
}

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
      ...['--samples', samples],
      ...['--json', json],
      ...['--html', html],
    ])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('r 8, stride_A 2, num_B 3, scaling 2; 8 layers, ')
    for (const title of ['q_proj: 4 layers of 32 to 32; LoRA', 'v_proj: 4 layers of 32 to 16; LoRA']) {
      expect(stdout).toContain(title)
    }
    expect(stdout.match(/^layer +w0 +w1 +w2 +entropy +of tokens +\|dW\| +effective rank +in LoRA\n0 /gm)).toHaveLength(
      2,
    )
    // One line per layer: three weights, two entropies, the update.
    expect(stdout.match(/^[0-3]( +\d\.\d\d){3}( +\d+%){2} +\d\.\d+ +\d\.\d +\d+%$/gm)).toHaveLength(8)

    const inspection = JSON.parse(readFileSync(json, 'utf8')) as Inspection
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

  test('without samples, does not show the routers', async () => {
    const html = join(newFolder(), 'page.html')
    const { code, stdout, stderr } = await runCli(['inspect', GOLDEN, '--html', html])
    expect(code, stderr).toBe(0)
    expect(stdout).toContain('no samples: all experts have equal weights')
    const { document } = parseHTML(readFileSync(html, 'utf8')) as unknown as { document: Page }
    expect(document.querySelectorAll('figure.chart svg')).toHaveLength(2 * 4)
    expect(document.querySelector('.alert')!.textContent).toContain('No samples')
  })

  test('--json with --no-html writes only JSON', async () => {
    const { code, stdout } = await runCli(['inspect', GOLDEN, '--json', '--no-html'])
    expect(code).toBe(0)
    expect((JSON.parse(stdout) as Inspection).analysis.r).toBe(8)
  })

  test('exits with code 1 and a message if the input cannot be read', async () => {
    const folder = newFolder()
    const html = join(folder, 'page.html')
    const samples = join(folder, 'samples.safetensors')
    await writeSamples(samples, 5)
    const calls: [string[], string][] = [
      [[join(folder, 'none')], 'ERR_LILY_CHECKPOINT: '],
      [[withFields({ peft_type: 'LORA' })], "expected peft_type 'LILY'"],
      [[GOLDEN, '--samples', samples], 'ERR_LILY_SHAPE: '],
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
