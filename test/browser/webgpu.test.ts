/** WebGPU in headless Chromium, on its software adapter: the golden cases, and TensorFlow.js' webgpu backend. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { programsOf } from '../support/guides.js'
import { bundleSuites } from '../support/portable/bundle.js'
import type { Outcome } from '../support/portable/run.js'
import { pagesMissing, Site, WEBGPU } from '../support/site.js'

const OPENING = { args: WEBGPU }
/** The compiler of the software adapter takes seconds, and longer beside other tests. */
const SLOW = 300_000
const POLL = { timeout: SLOW }

/** A global function of golden.html. */
declare const outcomes: () => Promise<{ results: Outcome[]; errors: string[] }>

const page = (script: string) =>
  `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">${script}</script>`

const GOLDEN = `
import { createLily } from 'lily-kernels/webgpu'
import { outcomes, setGpu } from './suites.js'
globalThis.outcomes = async () => {
  const { gpu } = navigator
  const device = await (await gpu.requestAdapter()).requestDevice()
  const errors = []
  device.addEventListener('uncapturederror', ({ error }) => errors.push(error.message))
  setGpu({ gpu, device, lily: createLily(device) })
  const results = await outcomes()
  return { results, errors }
}`

const program = programsOf('docs/tfjs.md').find(({ title }) => title.endsWith('On WebGPU'))!

const missing = pagesMissing()
if (missing !== undefined) test('WebGPU in Chromium', (context) => context.skip(missing))

describe.skipIf(missing !== undefined)('WebGPU in Chromium', () => {
  let site: Site
  let address: string
  beforeAll(async () => {
    site = new Site({
      'golden.html': page(GOLDEN),
      'suites.js': await bundleSuites({ suites: ['operations/golden'], backend: 'webgpu' }),
      'tfjs.html': page(program.source),
    })
    await site.build()
    address = await site.serve({})
  })
  afterAll(() => site?.remove())

  test(
    'the golden cases',
    async () => {
      const visit = await site.open(`${address}golden.html`, OPENING)
      const { results, errors } = await visit.page.evaluate(() => outcomes())
      expect(results.filter(({ errors }) => errors.length > 0)).toEqual([])
      expect(results.filter(({ name }) => /one layer|chained layers|bfloat16/.test(name)).length).toBeGreaterThan(15)
      expect(errors).toEqual([])
      expect(visit.errors).toEqual([])
    },
    SLOW,
  )

  test(
    "the program of docs/tfjs.md trains on TensorFlow.js' webgpu backend",
    async () => {
      const { printed, errors } = await site.open(`${address}tfjs.html`, OPENING)
      await expect.poll(() => printed.length + errors.length, POLL).toBeGreaterThan(0)
      expect(errors).toEqual([])
      expect(`${printed.join('\n')}\n`).toBe(program.output)
    },
    SLOW,
  )
})
